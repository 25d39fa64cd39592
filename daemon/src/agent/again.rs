//! The same question again: its answer comes out of what is kept, where the route says so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use paw_llm::{ChatRequest, Done, Finish, Usage};
use paw_policy::{ChatArguments, Digest, Name};
use tokio::time::Instant;

use super::Agents;
use crate::{
    config::{Config, RouteSettings, routes::CacheSettings},
    gateway::{
        Asked, Spoken,
        kept::{self, Answers, Kept, Whose},
    },
    metrics,
};

/// What is kept for the route of a question, and whose question it is.
pub(super) struct Again<'a> {
    answers: &'a Mutex<Answers>,
    config: Arc<Config>,
    route: Name,
    terms: CacheSettings,
    agent: &'a Name,
    uid: u32,
}

impl<'a> Again<'a> {
    /// Nothing, where the question is asked by no route or by one that keeps no answers.
    pub(super) fn of(
        agents: &'a Agents,
        chat: &ChatArguments,
        route: Option<&RouteSettings>,
        (agent, uid): (&'a Name, u32),
    ) -> Option<Self> {
        Some(Self {
            answers: &agents.kept,
            config: Arc::clone(&agents.config.borrow()),
            route: chat.route.clone()?,
            terms: route?.cache?,
            agent,
            uid,
        })
    }

    /// The answer that whoever would be asked first gave to this very question.
    pub(super) fn find(&self, request: &ChatRequest, first: &Asked) -> Option<Spoken> {
        let key = self.key(request, first)?;
        let now = Instant::now();
        let found = self.lock().find(&self.route, key, self.terms, now);
        metrics::looked_for_answer(found.is_some());
        let Kept { text, model } = found?;
        Some(Spoken {
            text,
            calls: Vec::new(),
            done: Done {
                finish: Finish::Stop,
                // Nobody was asked, so nothing was used.
                usage: Usage {
                    input_tokens: Some(0),
                    output_tokens: Some(0),
                    ..Usage::default()
                },
                model: Some(model),
            },
        })
    }

    /// Keeps an answer that came to its own end.
    pub(super) fn keep(&self, request: &ChatRequest, by: &Asked, spoken: &Spoken) {
        // What calls a tool is no answer, and calls another time what may be otherwise by then.
        let whole = spoken.done.finish == Finish::Stop && spoken.calls.is_empty();
        if !whole || spoken.text.is_empty() {
            return;
        }
        if let Some(key) = self.key(request, by) {
            let model = spoken.done.model.as_ref();
            let kept = Kept {
                text: spoken.text.clone(),
                model: model.unwrap_or(&by.target.model).clone(),
            };
            let keeps = |route: &Name| {
                let settings = self.config.routes.get(route);
                settings.is_some_and(|it| it.cache.is_some())
            };
            let mut answers = self.lock();
            answers.retain(keeps);
            answers.keep(&self.route, key, kept, self.terms, Instant::now());
        }
    }

    fn key(&self, request: &ChatRequest, asked: &Asked) -> Option<Digest> {
        let request = ChatRequest {
            model: asked.target.model.clone(),
            ..request.clone()
        };
        let whose = Whose {
            agent: self.agent,
            uid: self.uid,
            provider: &asked.known.settings,
        };
        kept::key(&request, whose)
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
