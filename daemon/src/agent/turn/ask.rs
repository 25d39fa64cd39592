//! One question of a turn: whoever of its targets answers.

use paw_api::provider::Usage;
use paw_llm::{ChatRequest, LlmError, Message, ToolChoice};
use paw_policy::Target;
use paw_store::{Attempt, Sum};
use tokio::time::{Instant, timeout_at};

use super::{Early, Turn, add, context, leaving, limits::Stop};
use crate::{
    agent::{again::Again, chat},
    config::routes::OnBreak,
    gateway::{self, Question, Spoken, Tried, Unanswered, Why, price::Tokens},
    orchestrator::work::{Ending, Outcome, failure},
};

/// An answer, with or without calls.
pub(super) struct Answer {
    pub(super) spoken: Spoken,
    /// Who gave it.
    pub(super) target: Target,
    /// Whether that is on this host.
    pub(super) local: bool,
    /// Whether it was given before, and nobody was asked.
    pub(super) cached: bool,
    /// What was tried for it.
    pub(super) attempts: Vec<Attempt>,
}

impl Turn<'_> {
    /// Asks the model. With a reason to stop it is asked for an answer alone.
    pub(super) async fn ask(&mut self, stop: Option<&Stop>) -> Result<Answer, Early> {
        let mut request = self.request(stop);
        let caller = self.whose.caller;
        let again = Again::of(
            self.agents,
            &self.chat,
            self.ready.route.as_ref(),
            (self.whose.agent, caller.uid),
        );
        // What follows upon tools is never the same question again.
        let again = again.filter(|_| self.turns.is_empty());
        let mut targets = self.ready.targets.iter();
        let first = targets.find(|asked| asked.may_receive(&self.taint));
        let kept = again.as_ref().zip(first).and_then(|(again, first)| {
            let spoken = again.find(&request, first)?;
            self.admits(first).then(|| (first.clone(), spoken))
        });
        if let Some((first, spoken)) = kept {
            tokio::select! {
                () = self.listener.hear(spoken.text.clone()) => {}
                () = self.stops.cancel.cancelled() => return Err(self.stopped()),
            }
            let attempts = vec![chat::from_before(&first.target)];
            let (target, local) = (first.target.clone(), first.known.settings.is_local());
            self.attempts.extend(attempts.clone());
            self.usage = used(self.usage, &spoken);
            return Ok(Answer {
                spoken,
                target,
                local,
                cached: true,
                attempts,
            });
        }
        // What is kept is found by what was asked, whatever conversation that was in.
        let asked = again.is_some().then(|| request.clone());
        leaving::mark(&mut request.messages, &self.canary);
        let began = Instant::now();
        // The question has this time; its last attempt is cut off a little later by the same limit.
        let deadline = began + self.left;
        let session = self.ready.session.to_string();
        let route = self.ready.route.as_ref();
        let question = Question {
            targets: &self.ready.targets,
            breakers: &self.agents.breakers,
            quotas: &self.agents.quotas,
            who: &chat::who(self.whose.id, self.whose.agent, caller, &session),
            request,
            labels: &self.taint,
            may_leave_host: route.is_some_and(|route| route.may_leave_host),
            on_break: route.map_or(OnBreak::Restart, |route| route.on_break),
            hedge: route.and_then(|route| route.hedge),
            deadline,
        };
        let mut tried = Tried::default();
        let asking = gateway::ask(&question, &mut self.listener, &mut tried);
        let told = tokio::select! {
            told = timeout_at(deadline, asking) => Some(told),
            () = self.stops.cancel.cancelled() => None,
        };
        // What is under way now was left: taken back, or cut off by the limit.
        let left = told.as_ref().map_or("cancelled", |_| "timed_out");
        let attempts = tried.left(left, Instant::now());
        self.attempts.extend(attempts.clone());
        self.left = self.left.saturating_sub(began.elapsed());
        match told {
            None => Err(self.stopped()),
            Some(Err(_)) => Err(Box::new(self.out_of_time())),
            Some(Ok(Err(unanswered))) => Err(Box::new(self.no_answer(&unanswered, &attempts))),
            Some(Ok(Ok((at, spoken)))) => {
                let by = &self.ready.targets[at];
                if let (Some(again), Some(asked)) = (&again, &asked)
                    && !self.canary.is_in(&spoken.text)
                {
                    again.keep(asked, by, &spoken);
                }
                let (target, local) = (by.target.clone(), by.known.settings.is_local());
                self.usage = used(self.usage, &spoken);
                if local {
                    self.keep_here();
                }
                Ok(Answer {
                    spoken,
                    target,
                    local,
                    cached: false,
                    attempts,
                })
            }
        }
    }

    /// What was said on this host stays on it, as it does from one turn to the next, unless the agent may take it out.
    pub(super) fn keep_here(&mut self) {
        if !self.ready.settings.may_leave_host {
            let here = |asked: &gateway::Asked| asked.known.settings.is_local();
            self.ready.targets.retain(here);
        }
    }

    /// Whether an answer from before may be given now. It is a request like any other where requests are counted; one that is too many
    /// waits and asks as others do.
    fn admits(&self, first: &gateway::Asked) -> bool {
        let session = self.ready.session.to_string();
        let who = chat::who(self.whose.id, self.whose.agent, self.whose.caller, &session);
        let hold = self.agents.quotas.hold(
            (&who, &first.target),
            (Tokens::default(), Some(0)),
            first.price,
        );
        hold.map(|hold| hold.settle(Sum::default())).is_ok()
    }

    /// Instructions, what was said before, the question, and what was done for it.
    fn request(&self, stop: Option<&Stop>) -> ChatRequest {
        let (with_tools, guide) = (!self.tools.is_empty(), self.tools.guide());
        let fenced = with_tools || self.ready.earlier.summary.is_some();
        let mut messages = vec![chat::instructions(&self.ready.settings, fenced, guide)];
        messages.extend(context::shown(&self.ready.earlier, &self.fence));
        messages.push(chat::said(&self.chat.text, &self.chat.images));
        messages.extend(context::steps(&self.turns, &self.fence));
        if let (Some(stop), Some(Message::Tool(last))) = (stop, messages.last_mut()) {
            // In our own words, after the fence.
            last.text.push_str(&format!(
                "\n\nNo tool can be called any more: {}. Answer now with what is known.",
                stop.why()
            ));
        }
        ChatRequest {
            tools: self.tools.list(),
            tool_choice: stop.map_or(ToolChoice::Auto, |_| ToolChoice::None),
            schema: chat::schema(&self.chat),
            ..chat::asked(&self.ready.settings, messages)
        }
    }

    pub(super) fn out_of_time(&self) -> Outcome {
        Outcome::plain(Ending::TimedOut(failure(
            "timed_out",
            format!(
                "the answer was not complete after {} ms",
                self.ready.limit.as_millis()
            ),
            "raise [actions] chat_timeout, or use a faster model",
        )))
    }

    fn no_answer(&self, unanswered: &Unanswered, attempts: &[Attempt]) -> Outcome {
        let outcome = chat::failed(unanswered, &self.ready.targets, attempts);
        let (Why::Provider(LlmError::BadRequest { said }), false) =
            (&unanswered.why, self.tools.is_empty())
        else {
            return outcome;
        };
        if !said.to_string().contains("tool") {
            return outcome;
        }
        let Ending::Failed(mut failure) = outcome.ending else {
            return outcome;
        };
        failure.hint = Some(format!(
            "use a model that can call tools, or set skills = [] for agent {} in pawd.toml",
            self.whose.agent
        ));
        Outcome::plain(Ending::Failed(failure))
    }
}

pub(super) fn used(before: Usage, spoken: &Spoken) -> Usage {
    let told = spoken.done.usage;
    add(
        before,
        Usage {
            input_tokens: told.input_tokens,
            output_tokens: told.output_tokens,
            cached_tokens: told.cached_tokens,
        },
    )
}
