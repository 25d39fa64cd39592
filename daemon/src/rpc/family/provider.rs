//! `provider.*`

use std::{sync::Arc, time::Instant};

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    audit::Event,
    provider::{Provider, ProviderRpcServer, ProviderSpec, ProviderTest, Usage},
};
use paw_llm::{ChatEvent, ChatRequest, LlmError, Message};
use paw_policy::Name;

use super::{Family, fail, route};
use crate::{
    clock::now_ms,
    providers::{Known, register::Change},
    records,
    rpc::caller,
};

/// Models that one answer lists.
const MODELS: usize = 100;

/// Tokens that the answer to a test may have: enough for one that thinks before it speaks to say something.
const TEST_TOKENS: u32 = 64;

/// Characters of that answer that are shown.
const TEST_TEXT: usize = 200;

#[async_trait]
impl ProviderRpcServer for Family {
    async fn list(&self, _: &Extensions) -> RpcResult<Vec<Provider>> {
        Ok(self.providers_shown())
    }

    async fn show(&self, _: &Extensions, name: String) -> RpcResult<Provider> {
        self.provider_shown(&name).map_err(fail)
    }

    async fn add(
        &self,
        extensions: &Extensions,
        name: String,
        spec: ProviderSpec,
    ) -> RpcResult<Provider> {
        self.change(extensions, Change::Add(name, spec)).await
    }

    async fn edit(
        &self,
        extensions: &Extensions,
        name: String,
        spec: ProviderSpec,
    ) -> RpcResult<Provider> {
        self.change(extensions, Change::Edit(name, spec)).await
    }

    async fn remove(&self, extensions: &Extensions, name: String) -> RpcResult<Provider> {
        let caller = caller(extensions).map_err(fail)?;
        let was = self.provider_shown(&name).map_err(fail)?;
        let change = Change::Remove(name);
        self.reload.change(caller, change).await.map_err(fail)?;
        Ok(was)
    }

    async fn default(&self, extensions: &Extensions, name: String) -> RpcResult<Provider> {
        self.change(extensions, Change::Default(name)).await
    }

    async fn reset(&self, extensions: &Extensions, name: String) -> RpcResult<Provider> {
        let caller = caller(extensions).map_err(fail)?;
        let (name, _) = self.provider(Some(&name)).map_err(fail)?;
        // Who is asked again sends questions to where they did not go.
        let detail = [("provider", name.to_string()), ("change", "reset".into())];
        let recorded = self.record(Event::ProviderChanged, &caller, &detail).await;
        recorded.map_err(fail)?;
        self.breakers.reset(name.as_str());
        self.provider_shown(name.as_str()).map_err(fail)
    }

    async fn test(&self, _: &Extensions, name: Option<String>) -> RpcResult<ProviderTest> {
        let (name, known) = self.provider(name.as_deref()).map_err(fail)?;
        let asked = ask(&known).await;
        known.note(&asked);
        match asked {
            Ok(answer) => Ok(ProviderTest {
                name: name.to_string(),
                models: names(&known).await,
                ..answer
            }),
            Err(error) => {
                let model = &known.settings.model;
                Err(fail(failed(&name, model, &error)))
            }
        }
    }
}

/// Asks a short question. Whether there is an answer is what is tested, not which.
async fn ask(known: &Known) -> Result<ProviderTest, LlmError> {
    let mut question = ChatRequest::new(
        known.settings.model.clone(),
        vec![Message::user("Answer with the word yes: do you hear me?")],
    );
    question.max_tokens = Some(TEST_TOKENS);
    let began = Instant::now();
    let since = |began: Instant| u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut stream = known.client.chat(question).await?;
    let (mut text, mut first_token_ms, mut done) = (String::new(), None, None);
    while let Some(event) = stream.next().await {
        match event? {
            ChatEvent::Text(piece) => {
                first_token_ms.get_or_insert_with(|| since(began));
                // A provider that says more than it was asked for fills nothing here.
                if text.len() < TEST_TEXT {
                    text.push_str(&piece);
                }
            }
            ChatEvent::ToolCall(_) => {}
            ChatEvent::Done(end) => done = Some(end),
        }
    }
    let done = done.ok_or(LlmError::Cut { source: None })?;
    Ok(ProviderTest {
        name: String::new(),
        model: done.model.unwrap_or_else(|| known.settings.model.clone()),
        text: records::shorten_to(text.trim(), TEST_TEXT),
        first_token_ms,
        ms: since(began),
        usage: Usage {
            input_tokens: done.usage.input_tokens,
            output_tokens: done.usage.output_tokens,
            cached_tokens: done.usage.cached_tokens,
        },
        models: Vec::new(),
    })
}

/// Names of the models that it lists; not every provider has a list, and it was answered without one.
async fn names(known: &Known) -> Vec<String> {
    let models = known.client.models_now().await.unwrap_or_default();
    models.into_iter().map(|it| it.name).take(MODELS).collect()
}

/// An error of a provider, as an error to a caller.
pub(super) fn failed(name: &Name, model: &str, error: &LlmError) -> Error {
    let kind = match error {
        LlmError::TimedOut { .. } => ErrorKind::TimedOut,
        LlmError::Rate { .. } => ErrorKind::Busy,
        LlmError::Loading { .. } | LlmError::Overload { .. } | LlmError::Transport { .. } => {
            ErrorKind::Unavailable
        }
        LlmError::Key { .. }
        | LlmError::Auth { .. }
        | LlmError::Quota { .. }
        | LlmError::BadRequest { .. }
        | LlmError::ContextLength { .. }
        | LlmError::ContentFilter { .. }
        | LlmError::NotFound { .. }
        | LlmError::Malformed { .. }
        | LlmError::Cut { .. }
        | LlmError::TooLarge { .. } => ErrorKind::Failed,
    };
    let what = error.kind();
    let message = format!(
        "provider {name} ({model}): {what}: {}",
        paw_log::Chain(error)
    );
    let told = Error::new(kind, message, error.hint()).about(name.as_str());
    match error.retry_after() {
        Some(wait) => told.retry_after_ms(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        None => told,
    }
}

impl Family {
    fn providers_shown(&self) -> Vec<Provider> {
        let mut all = self.providers.borrow().shown();
        for provider in &mut all {
            let state = self.breakers.state_of(&provider.name, now_ms());
            (provider.breaker, provider.breaker_until) = route::breaker(state);
        }
        all
    }

    async fn change(&self, extensions: &Extensions, change: Change) -> RpcResult<Provider> {
        let caller = caller(extensions).map_err(fail)?;
        let name = change.provider().unwrap_or_default().to_owned();
        self.reload.change(caller, change).await.map_err(fail)?;
        self.provider_shown(&name).map_err(fail)
    }

    fn provider_shown(&self, name: &str) -> Result<Provider, Error> {
        let mut all = self.providers_shown().into_iter();
        all.find(|provider| provider.name == name)
            .ok_or_else(|| unknown(name))
    }

    /// The provider of this name, or the one of the default agent; where that one has a route, the default provider.
    pub(super) fn provider(&self, name: Option<&str>) -> Result<(Name, Arc<Known>), Error> {
        let default = || {
            let config = self.config.borrow();
            let mut agents = config.agents.iter();
            let agent = agents.find(|(name, _)| name.as_str() == "default");
            let named = agent.and_then(|(_, settings)| settings.provider.as_ref());
            let default = named.or(config.default_provider.as_ref());
            default.map(ToString::to_string)
        };
        let Some(name) = name.map(str::to_owned).or_else(default) else {
            let hint = "name one, make one the default with `pawctl provider default NAME`, or add one with `pawctl provider add`";
            return Err(Error::new(
                ErrorKind::NotFound,
                "there is no default provider",
                hint,
            ));
        };
        let providers = self.providers.borrow();
        if let Some(waits) = providers.waits(&name) {
            let message = format!("provider {name}: {waits}");
            return Err(Error::new(ErrorKind::Unavailable, message, waits.remedy()).about(name));
        }
        match providers.get(&name) {
            Some((name, known)) => Ok((name.clone(), Arc::clone(known))),
            None => Err(unknown(&name)),
        }
    }
}

fn unknown(name: &str) -> Error {
    let name = records::shorten(name);
    let message = format!("there is no provider {name}");
    Error::new(ErrorKind::NotFound, message, "see `pawctl provider list`").about(name)
}
