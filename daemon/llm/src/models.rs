//! The models behind a provider: what it lists, and of an Ollama what it holds in memory, loads and pulls.
//!
//! What it tells is kept for a while, each for as long as it is likely to hold. Whoever has to know how it is now, because something is
//! decided by it, asks in any case.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, Response};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::cache::{Cache, Counts, Looks, MOST_FLIGHTS, Terms};
use crate::chat::Model;
use crate::config::ProviderKind;
use crate::error::{Level, LlmError};
use crate::provider::{LIST_LIMIT, Line, Provider, body, room};
use crate::stream::Deadline;
use crate::wire::{self, About, library};

/// The longest time between two lines of a pull. An Ollama says nothing while it checks the digest of what it pulled.
const PULL_STALL: Duration = Duration::from_secs(10 * 60);

/// The longest time that a whole pull may take.
const PULL_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What is in the list of models changes when somebody pulls one, or the provider adds one.
const LISTED: Terms = Terms {
    fresh: Duration::from_secs(30),
    stale: Duration::from_secs(5 * 60),
    failed: Duration::from_secs(2),
};

/// What a model can do changes when somebody pulls another one under its name.
const ABOUT: Terms = Terms {
    fresh: Duration::from_secs(5 * 60),
    stale: Duration::from_secs(60 * 60),
    failed: Duration::from_secs(5),
};

/// What is in memory changes with each question.
const LOADED: Terms = Terms {
    fresh: Duration::from_secs(2),
    stale: Duration::from_secs(10),
    failed: Duration::from_secs(1),
};

/// The most parts of a list of models, of a thousand models each.
const MAX_PAGES: usize = 16;

/// Models of one provider of which it is known what they can do.
const MAX_MODELS: usize = 256;

/// What is known of a provider's models.
#[derive(Debug)]
pub(crate) struct Known {
    listed: Cache<(), Arc<Vec<Model>>>,
    about: Cache<String, Option<About>>,
    loaded: Cache<(), Option<Arc<Vec<String>>>>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            listed: Cache::new(1, LISTED, &LISTED_LOOKS),
            about: Cache::new(MAX_MODELS, ABOUT, &ABOUT_LOOKS),
            loaded: Cache::new(1, LOADED, &LOADED_LOOKS),
        }
    }
}

static LISTED_LOOKS: Counts = Counts::new();
static ABOUT_LOOKS: Counts = Counts::new();
static LOADED_LOOKS: Counts = Counts::new();

/// What looks into the caches came to since the process began: lists of models, what a model can do, what is in memory.
#[must_use]
pub fn looks() -> [(&'static str, Looks); 3] {
    [
        ("models", LISTED_LOOKS.so_far()),
        ("abilities", ABOUT_LOOKS.so_far()),
        ("loaded", LOADED_LOOKS.so_far()),
    ]
}

/// How full the largest cache of a provider is: what is known of models that somebody named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Models that are known.
    pub models: usize,
    /// At most.
    pub most_models: usize,
    /// Fetches that are under way.
    pub flights: usize,
    /// At most.
    pub most_flights: usize,
}

impl Provider {
    /// How full its largest cache is.
    #[must_use]
    pub fn fill(&self) -> Fill {
        Fill {
            models: self.known.about.len(),
            most_models: MAX_MODELS,
            flights: self.known.about.flights(),
            most_flights: MOST_FLIGHTS,
        }
    }
}

/// How far a pull is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulled {
    /// The provider's word for what it does, at most 128 bytes that can be shown.
    pub status: String,
    /// Bytes of the part that is being pulled that are here.
    pub completed: Option<u64>,
    /// Bytes of that part.
    pub total: Option<u64>,
}

/// A pull that is under way. Dropping it closes the connection, which stops the pull; what is here already stays at the provider.
pub struct PullStream<'a> {
    provider: &'a Provider,
    response: Response,
    lines: library::Pull,
    began: Instant,
}

impl PullStream<'_> {
    /// The newest of what is new, or `None` once the model is there. Older news that came with it are left out.
    ///
    /// # Errors
    /// When the provider says that it failed, breaks off, or says nothing for ten minutes.
    pub async fn next(&mut self) -> Result<Option<Pulled>, LlmError> {
        loop {
            if self.lines.is_done() {
                return Ok(None);
            }
            let mask = self.provider.line.mask(&self.response);
            let now = Instant::now();
            let limit = Deadline::new(self.began, PULL_LIMIT, Level::Total).or(Deadline::new(
                now,
                PULL_STALL,
                Level::Stall,
            ));
            tokio::task::coop::consume_budget().await;
            let bytes = timeout_at(limit.at, self.response.chunk())
                .await
                .map_err(|_| limit.passed())?
                .map_err(|error| LlmError::Cut {
                    source: Some(Box::new(error.without_url())),
                })?;
            let Some(bytes) = bytes else {
                self.lines.finish(&mask)?;
                continue;
            };
            let news = self.lines.push(&bytes, &mask)?;
            if self.lines.is_done() {
                // From now on it has another model, or the same one anew.
                self.provider.forget_models();
            }
            // The last word is no news of its own: it is the end.
            if let Some(news) = news.filter(|_| !self.lines.is_done()) {
                return Ok(Some(news));
            }
        }
    }
}

impl Provider {
    /// Whether it holds models of its own, which can be loaded and pulled: an Ollama. Others are asked a question instead.
    #[must_use]
    pub fn holds_models(&self) -> bool {
        self.kind() == ProviderKind::Ollama
    }

    /// The models the provider offers, in its order, as it said within the last minutes.
    ///
    /// # Errors
    /// Any [`LlmError`] but those that only a stream can have.
    pub async fn models(&self) -> Result<Vec<Model>, LlmError> {
        let line = Arc::clone(&self.line);
        let listed = self.known.listed.get(&(), || listed(line)).await?;
        Ok(Vec::clone(&listed))
    }

    /// The models the provider offers now.
    ///
    /// # Errors
    /// As [`Provider::models`].
    pub async fn models_now(&self) -> Result<Vec<Model>, LlmError> {
        let listing = listed(Arc::clone(&self.line));
        let listed = self.known.listed.get_now(&(), listing).await?;
        Ok(Vec::clone(&listed))
    }

    /// What an Ollama tells of a model; nothing elsewhere.
    pub(crate) async fn about(
        &self,
        model: &str,
        deadline: Deadline,
    ) -> Result<Option<About>, LlmError> {
        if !self.holds_models() {
            return Ok(None);
        }
        let (line, name) = (Arc::clone(&self.line), model.to_owned());
        let asked = self.known.about.get(&name, || about(line, name.clone()));
        timeout_at(deadline.at, asked)
            .await
            .map_err(|_| deadline.passed())?
    }

    /// What is known of a model without asking: what its provider told within the last minutes, with the tokens that there is room for.
    /// What is not known yet, or a while ago, is asked beside, for who wants to know later. Must be called within a tokio runtime.
    #[must_use]
    pub fn known_of(&self, model: &str) -> Option<Model> {
        let line = Arc::clone(&self.line);
        if self.holds_models() {
            let name = model.to_owned();
            let known = self.known.about.glance(&name, || about(line, name.clone()));
            return known.flatten().map(|about| Model {
                context: room(&about),
                tools: about.tools,
                vision: about.vision,
                ..Model::named(name.clone())
            });
        }
        let listed = self.known.listed.glance(&(), || listed(line))?;
        listed.iter().find(|it| it.name == model).cloned()
    }

    /// Nothing that is known of its models need be so any more.
    fn forget_models(&self) {
        self.known.listed.forget();
        self.known.about.forget();
        self.known.loaded.forget();
    }

    /// What the provider tells of one model: an Ollama in full, others as they list it.
    ///
    /// # Errors
    /// Any [`LlmError`] but those that only a stream can have; [`LlmError::NotFound`] when an Ollama does not have it.
    pub async fn show(&self, model: &str, limit: Duration) -> Result<Option<Model>, LlmError> {
        let about = self.about(model, within(limit)).await?;
        // Its size stands in the list alone; without the list it is not known.
        let listed = match (self.models().await, &about) {
            (Ok(listed), _) => listed,
            (Err(_), Some(_)) => Vec::new(),
            (Err(error), None) => return Err(error),
        };
        let found = listed.into_iter().find(|it| {
            it.name == model || (about.is_some() && library::same_model(&it.name, model))
        });
        let Some(about) = about else { return Ok(found) };
        let found = found.unwrap_or_else(|| Model::named(model.to_owned()));
        Ok(Some(Model {
            context: about.set.or(about.trained),
            tools: about.tools.or(found.tools),
            vision: about.vision.or(found.vision),
            ..found
        }))
    }

    /// Whether a model is in memory now; `None` where the provider does not tell.
    ///
    /// # Errors
    /// Any [`LlmError`] but those that only a stream can have.
    pub async fn is_loaded(&self, model: &str, limit: Duration) -> Result<Option<bool>, LlmError> {
        let Some(url) = self.held_at("ps") else {
            return Ok(None);
        };
        let asking = loaded(Arc::clone(&self.line), url);
        let limit = within(limit);
        let names = timeout_at(limit.at, self.known.loaded.get_now(&(), asking))
            .await
            .map_err(|_| limit.passed())??;
        Ok(names.map(|names| names.iter().any(|name| library::same_model(name, model))))
    }

    /// Names of the models that were in memory within the last seconds; `None` where the provider does not tell.
    ///
    /// # Errors
    /// Any [`LlmError`] but those that only a stream can have.
    pub async fn loaded(&self, limit: Duration) -> Result<Option<Vec<String>>, LlmError> {
        let Some(url) = self.held_at("ps") else {
            return Ok(None);
        };
        let line = Arc::clone(&self.line);
        let limit = within(limit);
        let asked = self.known.loaded.get(&(), || loaded(line, url));
        let names = timeout_at(limit.at, asked)
            .await
            .map_err(|_| limit.passed())??;
        Ok(names.map(|names| Vec::clone(&names)))
    }

    /// Has an Ollama load a model, and keep it for `keep` after its last use (zero: not at all). Returns once it is in memory, or out
    /// of it. Elsewhere there is nothing to do.
    ///
    /// # Errors
    /// Any [`LlmError`] but those that only a stream can have; [`LlmError::NotFound`] when it does not have the model.
    pub async fn hold(&self, model: &str, keep: Duration, limit: Duration) -> Result<(), LlmError> {
        let Some(url) = self.held_at("generate") else {
            return Ok(());
        };
        let deadline = within(limit);
        let context = if keep.is_zero() {
            None
        } else {
            self.context(model, deadline).await?
        };
        let asked = library::hold(model, &format!("{}s", keep.as_secs()), context);
        let sent = self
            .line
            .send(Method::POST, &url, Some(asked), deadline)
            .await;
        // Whatever came of it, memory may be another one.
        self.known.loaded.forget();
        let response = sent?;
        let mask = self.line.mask(&response);
        let answer = body(response, LIST_LIMIT, deadline).await?;
        library::held(&answer, &mask)
    }

    /// Has an Ollama fetch a model; `None` where the provider fetches none.
    ///
    /// # Errors
    /// Any [`LlmError`] but those that only a stream can have.
    pub async fn pull(&self, model: &str) -> Result<Option<PullStream<'_>>, LlmError> {
        let Some(url) = self.held_at("pull") else {
            return Ok(None);
        };
        let began = Instant::now();
        let asked = serde_json::json!({ "model": model, "stream": true });
        let asked = asked.to_string().into_bytes();
        let limit = Deadline::new(began, PULL_STALL, Level::FirstToken);
        let response = self
            .line
            .send(Method::POST, &url, Some(asked), limit)
            .await?;
        Ok(Some(PullStream {
            provider: self,
            response,
            lines: library::Pull::default(),
            began,
        }))
    }
}

/// Asks for the list of models, part by part.
async fn listed(line: Arc<Line>) -> Result<Arc<Vec<Model>>, LlmError> {
    let (mut models, mut url) = (Vec::new(), line.endpoint.models.clone());
    for _ in 0..MAX_PAGES {
        let page = wire::models(line.endpoint.kind, &line.get(&url).await?)?;
        models.extend(page.models);
        let Some((name, value)) = page.next else {
            return Ok(Arc::new(models));
        };
        url = line.endpoint.models.clone();
        url.query_pairs_mut().append_pair(name, &value);
    }
    // Who never comes to an end is not asked for ever.
    Err(LlmError::TooLarge {
        what: "the list of models",
    })
}

/// Asks what a model can do.
async fn about(line: Arc<Line>, model: String) -> Result<Option<About>, LlmError> {
    let Some(show) = &line.endpoint.show else {
        return Ok(None);
    };
    let deadline = line.deadline(Instant::now());
    let asked = serde_json::json!({ "model": model })
        .to_string()
        .into_bytes();
    let response = line.send(Method::POST, show, Some(asked), deadline).await?;
    wire::about(&body(response, LIST_LIMIT, deadline).await?).map(Some)
}

/// Asks what is in memory.
async fn loaded(line: Arc<Line>, url: Url) -> Result<Option<Arc<Vec<String>>>, LlmError> {
    match line.get(&url).await {
        Ok(body) => library::running(&body).map(|names| Some(Arc::new(names))),
        // Older servers do not know the path.
        Err(LlmError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn within(limit: Duration) -> Deadline {
    Deadline::new(Instant::now(), limit, Level::FirstToken)
}
