//! What is in the store of a turn that goes on: turns of its conversation, each with the action that made it.

use paw_policy::{Name, TaintSet, Target};
use paw_store::{
    ActionRecord, Attempt, Batch, CallRecord, ResultOf, SessionRecord, Speaker, StoreError, Sum,
    TurnRecord,
};

use super::{Early, Turn};
use crate::{
    agent::{Agents, chat},
    clock::now_ms,
    orchestrator::work::Outcome,
};

/// Turns of a conversation that are looked through for those of one chat.
const LOOKED_THROUGH: u64 = 1_000;

/// How often a step is stored that another chat of the same conversation came before.
const TRIES: u32 = 8;

/// What a chat has done that is stored, without its question; nothing, when it has called no tool.
pub(super) fn of(agents: &Agents, record: &ActionRecord) -> Vec<TurnRecord> {
    let session = record.plan.session.as_deref();
    let Some(session) = session.and_then(|text| text.parse().ok()) else {
        return Vec::new();
    };
    let store = agents.storage.read();
    let turns = store.session(session).and_then(|session| {
        let Some(SessionRecord { id, turns, .. }) = session else {
            return Ok(Vec::new());
        };
        let from = turns.saturating_sub(LOOKED_THROUGH);
        store.turns(
            id,
            from,
            usize::try_from(LOOKED_THROUGH).unwrap_or(usize::MAX),
        )
    });
    let turns = match turns {
        Ok(turns) => turns,
        Err(error) => {
            tracing::warn!(paw_action = %record.id, error = %paw_log::Chain(&error), "what a chat has done cannot be read");
            return Vec::new();
        }
    };
    let its = turns
        .into_iter()
        .filter(|turn| turn.action == Some(record.id) && turn.role != Speaker::User);
    its.collect()
}

/// Counts what an earlier pawd spent on this chat, which it had no time to store.
pub(super) fn count(agents: &Agents, record: &ActionRecord, turns: &[TurnRecord]) {
    let plan = &record.plan;
    let session = plan.session.as_deref().unwrap_or_default();
    let who = chat::who(record.id, &plan.agent, &record.requested_by, session);
    for attempt in turns.iter().flat_map(|turn| &turn.attempts) {
        let Ok(provider) = attempt.provider.parse::<Name>() else {
            continue;
        };
        let target = Target {
            provider,
            model: attempt.model.clone(),
        };
        agents.quotas.spent_before((&who, &target), spent(attempt));
    }
}

fn spent(attempt: &Attempt) -> Sum {
    let tokens = |told: Option<u64>| told.unwrap_or(0);
    Sum {
        cost: attempt.cost_micros.unwrap_or(0),
        tokens: tokens(attempt.input_tokens).saturating_add(tokens(attempt.output_tokens)),
    }
}

/// One more turn of a chat.
pub(super) struct More {
    pub(super) role: Speaker,
    pub(super) text: String,
    pub(super) taint: TaintSet,
    pub(super) calls: Vec<CallRecord>,
    pub(super) result_of: Option<ResultOf>,
    pub(super) attempts: Vec<Attempt>,
    /// Who said it, with which model, and whether they are on this host.
    pub(super) by: Option<(Name, String, bool)>,
}

impl More {
    pub(super) fn result(of: ResultOf, taint: TaintSet, text: String) -> Self {
        Self {
            role: Speaker::Tool,
            text,
            taint,
            calls: Vec::new(),
            result_of: Some(of),
            attempts: Vec::new(),
            by: None,
        }
    }
}

impl Turn<'_> {
    /// Stores what was said and done; from then on a restart of pawd does not undo it. The question goes before the first of it.
    pub(super) async fn note(&mut self, more: Vec<More>) -> Result<(), Early> {
        let mut left = TRIES;
        loop {
            left -= 1;
            let (batch, turns) = match self.batch(&more) {
                Ok(Some(made)) => made,
                Ok(None) => {
                    let message = "the conversation was deleted while its turn went on";
                    let outcome = Outcome::failed("not_found", message, "begin a new one");
                    return Err(Box::new(outcome));
                }
                Err(error) => return Err(not_noted(&error)),
            };
            match self.agents.storage.commit(batch).await {
                Ok(()) => {
                    self.turns.extend(turns);
                    return Ok(());
                }
                // Another chat of this conversation may have stored a turn between our look and our write.
                Err(_) if left > 0 => {}
                Err(error) => return Err(not_noted(&error)),
            }
        }
    }

    fn batch(&self, more: &[More]) -> Result<Option<(Batch, Vec<TurnRecord>)>, StoreError> {
        let Some(mut session) = self.agents.storage.read().session(self.ready.session)? else {
            return Ok(None);
        };
        let at_ms = now_ms();
        let blank = |role, text: String, taint: TaintSet| TurnRecord {
            session: session.id,
            seq: 0,
            role,
            text,
            taint,
            action: Some(self.whose.id),
            provider: None,
            model: None,
            local: None,
            calls: Vec::new(),
            result_of: None,
            attempts: Vec::new(),
            at_ms,
        };
        let question = self.turns.is_empty().then(|| {
            let text = self.chat.text.clone();
            blank(Speaker::User, text, self.whose.taint.clone())
        });
        let turns = more.iter().map(|more| TurnRecord {
            provider: more.by.as_ref().map(|(provider, _, _)| provider.clone()),
            model: more.by.as_ref().map(|(_, model, _)| model.clone()),
            local: more.by.as_ref().map(|(_, _, local)| *local),
            calls: more.calls.clone(),
            result_of: more.result_of.clone(),
            attempts: more.attempts.clone(),
            ..blank(more.role, more.text.clone(), more.taint.clone())
        });
        let mut turns: Vec<TurnRecord> = question.into_iter().chain(turns).collect();
        for (seq, turn) in (session.turns..).zip(&mut turns) {
            turn.seq = seq;
            session.taint = session.taint.with(&turn.taint);
            session.bytes += serde_json::to_vec(turn).map_or(0, |turn| turn.len() as u64);
        }
        session.turns += turns.len() as u64;
        session.updated_ms = at_ms;
        let mut batch = Batch::new();
        // These first: they are refused where the conversation was deleted meanwhile, so that it is not there again.
        for turn in &turns {
            batch.append_turn(turn)?;
        }
        batch.put_session(&session)?;
        turns.retain(|turn| turn.role != Speaker::User);
        Ok(Some((batch, turns)))
    }
}

fn not_noted(error: &StoreError) -> Early {
    let message = paw_log::Chain(error).to_string();
    Box::new(Outcome::failed("unavailable", message, error.remedy()))
}
