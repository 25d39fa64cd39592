//! Makes one model ready: it is there, it is in memory, and it has answered a question.
//!
//! ```text
//!  looking ─ listed? ─► loading ─ in memory? ─► asking ─ its terminator ─► ready
//!     │                    │ ▲                     │ ▲
//!     └── 503, it loads ───┘ └──── 503, it loads ──┘ │   until the deadline
//!                                                    └── nothing else is tried twice
//! ```
//!
//! An Ollama holds models of its own and is told to load this one, with as much room as questions will ask for; others load when they
//! are asked. Servers exist that answer whatever model is named: there the provider's list says whether it has this one.

use std::time::Duration;

use paw_llm::{ChatEvent, ChatRequest, LlmError, Message, Provider, ProviderKind};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{gateway, providers::Known};

/// How long a model that was made ready stays in an Ollama's memory after its last use.
const KEEP: Duration = Duration::from_secs(30 * 60);

/// Tokens that the answer may have. Some providers refuse to answer with fewer.
const TOKENS: u32 = 16;

/// Between two looks at a model that is loading, where its provider does not say when to look again.
const LOOK: Duration = Duration::from_millis(500);

/// How long giving back what was loaded may take.
const GIVE_BACK: Duration = Duration::from_secs(10);

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is looked whether there is such a model.
    Looking,
    /// It is being loaded.
    Loading,
    /// It is asked a question.
    Asking,
}

impl Step {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Looking => "looking",
            Self::Loading => "loading",
            Self::Asking => "asking",
        }
    }
}

/// What has been done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// Whether the model was not in an Ollama's memory before, and is brought there by us.
    pub brought: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            step: Step::Looking,
            brought: false,
        }
    }
}

/// Why a model is not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// The provider does not list it.
    #[error("the provider does not list it")]
    Unlisted {
        /// Names that it lists, the first ones.
        listed: Vec<String>,
    },
    /// The time is over.
    #[error("it was not ready in time (while {})", .0.as_str())]
    Late(Step),
    /// The provider, or the way to it, failed.
    #[error(transparent)]
    Failed(#[from] LlmError),
}

/// Makes it ready, or gives up at the `deadline`. Where it is only used if it is listed, `unlisted` is false. What is being done is
/// told on the way. Dropping the future ends it, and the connection.
///
/// # Errors
/// When it is not ready; what was loaded may still be in memory, see [`give_back`].
pub async fn make(
    provider: &Provider,
    model: &str,
    unlisted: bool,
    deadline: Instant,
    tell: &watch::Sender<Progress>,
) -> Result<(), NotReady> {
    let making = async {
        if !unlisted && says_yes_to_any_name(provider.kind()) {
            look(provider, model, tell).await?;
        }
        load(provider, model, deadline, tell).await?;
        step(tell, Step::Asking);
        patiently(tell, || ask(provider, model)).await?;
        Ok(())
    };
    timeout_at(deadline, making)
        .await
        .unwrap_or_else(|_| Err(NotReady::Late(tell.borrow().step)))
}

/// Takes a model out of an Ollama's memory again that was brought there for nothing. Whoever uses it after all has it loaded again.
pub async fn give_back(known: &Known, model: &str) {
    // What cannot be given back is given back by the time that it is kept.
    drop(known.client.hold(model, Duration::ZERO, GIVE_BACK).await);
}

/// Of the dialects, those whose servers may answer with what they have, whatever is asked for.
const fn says_yes_to_any_name(kind: ProviderKind) -> bool {
    match kind {
        ProviderKind::OpenAi | ProviderKind::Compatible => true,
        ProviderKind::Ollama
        | ProviderKind::Anthropic
        | ProviderKind::Gemini
        | ProviderKind::Mistral => false,
    }
}

async fn look(
    provider: &Provider,
    model: &str,
    tell: &watch::Sender<Progress>,
) -> Result<(), NotReady> {
    let listed = match patiently(tell, || provider.models_now()).await {
        Ok(listed) => listed,
        // Not every server has a list; whether it answers, it will show.
        Err(LlmError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if listed.is_empty() || listed.iter().any(|it| it.name == model) {
        return Ok(());
    }
    let listed = listed.into_iter().map(|it| it.name).take(8).collect();
    Err(NotReady::Unlisted { listed })
}

async fn load(
    provider: &Provider,
    model: &str,
    deadline: Instant,
    tell: &watch::Sender<Progress>,
) -> Result<(), NotReady> {
    if !provider.holds_models() {
        return Ok(());
    }
    let left = || deadline.saturating_duration_since(Instant::now());
    let loaded = patiently(tell, || provider.is_loaded(model, left())).await?;
    tell.send_modify(|it| {
        it.step = Step::Loading;
        it.brought = loaded == Some(false);
    });
    // Also of one that is loaded: its time begins anew.
    patiently(tell, || provider.hold(model, KEEP, left())).await?;
    match provider.is_loaded(model, left()).await? {
        Some(false) => Err(NotReady::Failed(LlmError::Malformed {
            what: "it says that the model is loaded, and does not list it among those that are"
                .into(),
        })),
        Some(true) | None => Ok(()),
    }
}

/// Whether there is an answer is what counts, not which.
async fn ask(provider: &Provider, model: &str) -> Result<(), LlmError> {
    let mut question = ChatRequest::new(model, vec![Message::user("Answer with the word yes.")]);
    question.max_tokens = Some(TOKENS);
    let mut stream = provider.chat(question).await?;
    let mut done = false;
    while let Some(event) = stream.next().await {
        done |= matches!(event?, ChatEvent::Done(_));
    }
    if done {
        Ok(())
    } else {
        Err(LlmError::Cut { source: None })
    }
}

/// Does it again and again while the provider says that it is loading its model.
async fn patiently<T, F>(
    tell: &watch::Sender<Progress>,
    mut it: impl FnMut() -> F,
) -> Result<T, LlmError>
where
    F: Future<Output = Result<T, LlmError>>,
{
    let before = tell.borrow().step;
    loop {
        match it().await {
            Err(LlmError::Loading { retry_after, .. }) => {
                step(tell, Step::Loading);
                // It says nothing by itself, so there is no event that could be waited for.
                let pause = retry_after.unwrap_or(LOOK).max(LOOK);
                let random = gateway::random().unwrap_or(0);
                let jitter = LOOK.mul_f64(0.5 * (random as f64 / u64::MAX as f64));
                sleep_until(Instant::now() + pause + jitter).await;
            }
            outcome => {
                step(tell, before);
                return outcome;
            }
        }
    }
}

fn step(tell: &watch::Sender<Progress>, step: Step) {
    tell.send_if_modified(|it| std::mem::replace(&mut it.step, step) != step);
}
