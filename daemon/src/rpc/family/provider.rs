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
use paw_policy::{ConfigChange, Name};
use serde_json::Map;

use super::{Family, change::said, fail, route};
use crate::{clock::now_ms, models::told, providers::Known, records, rpc::caller};

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
        let said = said(&spec).map_err(fail)?;
        self.configure(extensions, ConfigChange::ProviderAdd, &name, said)
            .await?;
        self.provider_shown(&name).map_err(fail)
    }

    async fn edit(
        &self,
        extensions: &Extensions,
        name: String,
        spec: ProviderSpec,
    ) -> RpcResult<Provider> {
        let said = said(&spec).map_err(fail)?;
        self.configure(extensions, ConfigChange::ProviderEdit, &name, said)
            .await?;
        self.provider_shown(&name).map_err(fail)
    }

    async fn remove(&self, extensions: &Extensions, name: String) -> RpcResult<Provider> {
        let was = self.provider_shown(&name).map_err(fail)?;
        self.configure(
            extensions,
            ConfigChange::ProviderRemove,
            &name,
            Map::default(),
        )
        .await?;
        Ok(was)
    }

    async fn default(&self, extensions: &Extensions, name: String) -> RpcResult<Provider> {
        self.configure(
            extensions,
            ConfigChange::ProviderDefault,
            &name,
            Map::default(),
        )
        .await?;
        self.provider_shown(&name).map_err(fail)
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
                Err(fail(told::failed(&name, model, &error)))
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

impl Family {
    fn providers_shown(&self) -> Vec<Provider> {
        let mut all = self.providers.borrow().shown();
        for provider in &mut all {
            let state = self.breakers.state_of(&provider.name, now_ms());
            (provider.breaker, provider.breaker_until) = route::breaker(state);
        }
        all
    }

    fn provider_shown(&self, name: &str) -> Result<Provider, Error> {
        let mut all = self.providers_shown().into_iter();
        all.find(|provider| provider.name == name)
            .ok_or_else(|| told::unknown(name))
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
        told::known(&self.providers.borrow(), &name)
    }
}
