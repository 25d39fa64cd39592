//! What comes of an answer with calls: each becomes an action, all of them at once, and the turn waits for their ends.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;
use paw_api::{Error, ErrorKind, provider::ToolCalled};
use paw_llm::ToolCall;
use paw_policy::{Ceiling, Name, Operation, State, Taint, TaintSet, ToolClass};
use paw_store::{ActionRecord, CallRecord, ResultOf, Speaker, TurnRecord};
use serde_json::{Map, Value};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Duration, Instant, sleep_until, timeout},
};
use uuid::Uuid;

use super::{
    Early, Turn,
    ask::Answer,
    context,
    fence::{MAX_RESULT, bounded},
    leaving::WITHHELD_ARGUMENTS,
    limits::{MAX_RESULTS, key},
    news::{are_others, of_these, one_of},
    noted::More,
    result, text, told,
};
use crate::{
    agent::Door,
    intake::{By, Called, Consulted, unreadable},
    orchestrator::{
        handle::Change,
        work::{Ending, Outcome},
    },
    records,
};

/// Calls of one answer that are done; the others are refused, and the model may make them again.
const MAX_CALLS: usize = 16;

/// The longest name of a call that a provider gave it.
const MAX_ID: usize = 64;

/// The least that is shown of a result, however long those before it were.
const LEAST_RESULT: usize = 512;

/// Turns of another agent's conversation that are looked through for where they were said.
const LOOKED_THROUGH: usize = 1_000;

/// How often a turn may ask other agents. With three agents in a row, one question comes to 73 conversations at most.
const MAX_QUESTIONS: usize = 8;

/// How long a change may take that keeps an action from being cancelled.
const CHANGING: Duration = Duration::from_secs(1);

/// Calls of the last answer that have no result.
pub(super) fn open(turns: &[TurnRecord]) -> Vec<CallRecord> {
    let Some(last) = turns.iter().rfind(|turn| turn.role == Speaker::Assistant) else {
        return Vec::new();
    };
    let has_result = |call: &&CallRecord| {
        let of = |turn: &TurnRecord| turn.result_of.as_ref().is_some_and(|of| of.call == call.id);
        !turns.iter().any(of)
    };
    last.calls.iter().filter(has_result).cloned().collect()
}

/// What a call of a model means.
enum Meant<'a> {
    /// A tool, with these arguments.
    Tool(&'a told::Which, Map<String, Value>),
    /// A question to another agent.
    Agent { helper: Name, text: String },
}

/// An action that a call became, while the turn waits for it.
struct Child {
    id: Uuid,
    tool: String,
    /// As it was last told; nothing before the first time.
    state: Option<State>,
    /// What it came to.
    told: Option<result::Told>,
}

impl Turn<'_> {
    /// The calls that an answer makes, by the provider's way of calling or, where it made none, as text.
    pub(super) fn calls_of(&self, answer: &Answer) -> Vec<CallRecord> {
        let spoken = &answer.spoken;
        let mut calls = spoken.calls.clone();
        if calls.is_empty()
            && !self.tools.is_empty()
            && let Some((name, arguments)) = text::call(&spoken.text, |name| self.tools.knows(name))
        {
            calls.push(ToolCall {
                id: String::new(),
                name,
                arguments,
                signature: None,
            });
        }
        let mut made: Vec<CallRecord> = Vec::new();
        let mut equal: BTreeMap<_, Uuid> = BTreeMap::new();
        let mut questions = self.questions(self.turns.iter().flat_map(|turn| &turn.calls));
        for (place, call) in calls.into_iter().enumerate() {
            let taken = |id: &str| {
                let earlier = self.turns.iter().flat_map(|turn| &turn.calls);
                earlier.chain(&made).any(|call| call.id == id)
            };
            // Ids that are told apart only by a number are the same in every answer.
            let own = call.id.is_empty()
                || call.id.len() > MAX_ID
                || call.id.starts_with("call_") && call.id.len() < 8
                || taken(&call.id);
            let id = if own {
                let unique = Uuid::now_v7().simple().to_string();
                format!("call_{}", &unique[20..])
            } else {
                call.id
            };
            let action = match self.meant(&call.name, &call.arguments) {
                Ok(Meant::Agent { .. }) if place < MAX_CALLS && questions < MAX_QUESTIONS => {
                    questions += 1;
                    Some(Uuid::now_v7())
                }
                Ok(Meant::Tool(which, _)) if place < MAX_CALLS => {
                    let same = key(&call.name, &call.arguments);
                    match which.class {
                        // Reading twice at the same time is reading once.
                        ToolClass::ReadPublic | ToolClass::ReadPrivate => {
                            Some(*equal.entry(same).or_insert_with(Uuid::now_v7))
                        }
                        ToolClass::WriteLocalReversible
                        | ToolClass::WriteDestructive
                        | ToolClass::Egress
                        | ToolClass::Money
                        | ToolClass::Exec
                        | ToolClass::Admin => Some(Uuid::now_v7()),
                    }
                }
                Ok(_) | Err(_) => None,
            };
            made.push(CallRecord {
                id,
                name: call.name,
                arguments: call.arguments,
                signature: call.signature,
                action,
            });
        }
        made
    }

    /// How many of these calls have asked another agent.
    fn questions<'a>(&self, calls: impl Iterator<Item = &'a CallRecord>) -> usize {
        calls
            .filter(|call| call.action.is_some() && self.tools.asks(&call.name).is_some())
            .count()
    }

    /// What a call means.
    fn meant(&self, name: &str, arguments: &str) -> Result<Meant<'_>, String> {
        if arguments == WITHHELD_ARGUMENTS {
            return Err("its arguments held the mark of the instructions".into());
        }
        let members = || {
            text::members(arguments)
                .ok_or("its arguments are no JSON object, or say a member twice")
        };
        if let Some(input) = self.tools.asks(name) {
            let members = members()?;
            crate::fits::check(input, &members)?;
            let word = |name: &str| {
                members
                    .get(name)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            let helper = word("agent")
                .parse()
                .map_err(|_| "there is no such agent")?;
            let text = word("text").to_owned();
            return Ok(Meant::Agent { helper, text });
        }
        let which = self.tools.find(name)?;
        let members = members()?;
        crate::fits::check(&which.input, &members)?;
        Ok(Meant::Tool(which, members))
    }

    /// Stores an answer with its calls, before any of them is asked for; those that become no action have their result at once.
    pub(super) async fn note_calls(
        &mut self,
        answer: Answer,
        calls: Vec<CallRecord>,
    ) -> Result<(), Early> {
        let as_text = answer.spoken.calls.is_empty();
        let model = answer.spoken.done.model.unwrap_or(answer.target.model);
        self.taint = std::mem::take(&mut self.taint).with(&TaintSet::of(Taint::Model));
        let mut more = vec![More {
            role: Speaker::Assistant,
            // What was a call is none of the words.
            text: if as_text {
                String::new()
            } else {
                answer.spoken.text
            },
            taint: self.taint.clone(),
            calls: calls.clone(),
            result_of: None,
            attempts: [std::mem::take(&mut self.unnoted), answer.attempts].concat(),
            by: Some((answer.target.provider, model, answer.local)),
        }];
        let earlier = self.turns.iter().flat_map(|turn| &turn.calls);
        let questions = self.questions(earlier.chain(&calls));
        for call in calls.iter().filter(|call| call.action.is_none()) {
            let why = match self.meant(&call.name, &call.arguments) {
                Err(why) => why,
                Ok(Meant::Agent { .. }) if questions == MAX_QUESTIONS => format!(
                    "a turn asks other agents {MAX_QUESTIONS} times at most; answer with what they said"
                ),
                Ok(_) => format!("one answer may make {MAX_CALLS} calls; make this one again"),
            };
            let told = result::ours(format!("refused: {why}"));
            self.listener.tool(refused(call, &told.text)).await;
            more.push(result_of(call, told, MAX_RESULT));
        }
        self.note(more).await
    }

    /// Sees all calls of the last answer to their ends, and stores their results.
    pub(super) async fn finish_calls(&mut self) -> Result<(), Early> {
        let calls = open(&self.turns);
        let Some(door) = self.agents.door.get() else {
            let hint = "report it with the journal of this time";
            return Err(Box::new(Outcome::failed(
                "internal",
                "there is no way in",
                hint,
            )));
        };
        // Listening begins before the first is asked for, so that no change falls in between.
        let mut changes = door.actions.changes();
        let mut children: Vec<Child> = Vec::new();
        let asked: Vec<_> = calls
            .iter()
            .filter_map(|call| {
                let id = call.action?;
                if children.iter().any(|child| child.id == id) {
                    return None;
                }
                let which = self.tools.find(&call.name).ok();
                children.push(Child {
                    id,
                    tool: which.map_or_else(|| call.name.clone(), tool_name),
                    state: None,
                    told: None,
                });
                Some(self.submit(door, id, call))
            })
            .collect();
        let asked = join_all(asked).await;
        door.actions.rest(self.whose.id).await;
        let waited = self.wait(&mut children, asked, &mut changes).await;
        door.actions.wake(self.whose.id).await;
        if let Err(outcome) = waited {
            // Who leaves lets them be: they are the next pawd's.
            if outcome.ending != Ending::Left {
                self.take_back(door, &children, &changes).await;
            }
            return Err(outcome);
        }
        let before: usize = self
            .turns
            .iter()
            .filter(|turn| turn.role == Speaker::Tool)
            .map(|turn| turn.text.len())
            .sum();
        let (mut more, mut room) = (Vec::new(), MAX_RESULTS.saturating_sub(before));
        for call in &calls {
            let child = children.iter().find(|child| Some(child.id) == call.action);
            let told = child.and_then(|child| child.told.as_ref());
            let told = told
                .cloned()
                .unwrap_or_else(|| result::ours("the call was lost"));
            self.taint = std::mem::take(&mut self.taint).with(&told.taint);
            let tool = child.map_or_else(|| call.name.clone(), |child| child.tool.clone());
            let by = told.by.clone();
            let next = More::result(
                ResultOf {
                    call: call.id.clone(),
                    tool,
                    failed: told.failed,
                },
                told.taint,
                bounded(&told.text, room.clamp(LEAST_RESULT, MAX_RESULT)),
            );
            let next = More { by, ..next };
            room = room.saturating_sub(next.text.len());
            more.push(next);
        }
        if more
            .iter()
            .any(|it| it.by.as_ref().is_some_and(|(_, _, here)| *here))
        {
            self.keep_here();
        }
        self.note(more).await
    }

    /// Asks for the action of a call, if nobody has; an earlier pawd may.
    async fn submit(
        &self,
        door: &Door,
        id: Uuid,
        call: &CallRecord,
    ) -> Result<ActionRecord, Error> {
        // Whoever cannot know whether it was asked for does not ask again.
        let found = self.agents.storage.read().action(id);
        if let Some(record) = found.map_err(|error| unreadable(&error))? {
            return Ok(record);
        }
        let refused = |why: String| Error::new(ErrorKind::Invalid, why, "see `pawctl skill show`");
        let meant = self.meant(&call.name, &call.arguments).map_err(refused)?;
        let by = By {
            id,
            chat: self.whose.id,
            parent: self.whose.parent,
            caller: self.whose.caller.clone(),
            agent: self.whose.agent.clone(),
            taint: self.taint.clone(),
        };
        let submission = match meant {
            Meant::Tool(which, arguments) => door.intake.judge_call(Called {
                by,
                session: self.ready.session,
                skill: which.skill.clone(),
                tool: which.tool.clone(),
                arguments,
            }),
            Meant::Agent { helper, text } => door.intake.judge_question(Consulted {
                by,
                session: self.ready.session,
                helper,
                text,
                local_only: self.stays_here(),
            }),
        };
        door.actions.submit(submission?).await
    }

    /// Whether what this turn knows stays on this host: it was asked to, or something of it was said here.
    pub(super) fn stays_here(&self) -> bool {
        let providers = Arc::clone(&self.agents.providers.borrow());
        let earlier = &self.ready.earlier;
        let known = earlier.turns.iter().chain(&self.turns);
        let said_here = known.map(|turn| providers.said_here(turn));
        let mut said_here = said_here.chain(earlier.summary.iter().map(|it| it.local));
        self.chat.local_only
            || self.taint.has(Taint::Secret)
            || (!self.ready.settings.may_leave_host && said_here.any(|here| here))
    }

    /// Waits until all of them have ended.
    async fn wait(
        &mut self,
        children: &mut [Child],
        asked: Vec<Result<ActionRecord, Error>>,
        changes: &mut Receiver<Change>,
    ) -> Result<(), Early> {
        for (child, asked) in children.iter_mut().zip(asked) {
            match asked {
                Ok(record) => self.heard(child, &record).await,
                Err(_) if self.stops.drain.is_cancelled() => {
                    return Err(Box::new(Outcome::plain(Ending::Left)));
                }
                Err(error) => {
                    let told = result::ours(format!("refused: {}", error.message));
                    let called = ToolCalled {
                        action_id: None,
                        why: Some(told.text.clone()),
                        ..blank(&child.tool, "refused")
                    };
                    self.listener.tool(called).await;
                    child.told = Some(told);
                }
            }
        }
        // A change may have come before its answer did.
        self.look(children).await;
        let mut persons = self.agents.persons.watch();
        let mut waits_for_one = None;
        loop {
            let unended = children.iter().filter(|child| child.told.is_none());
            let open: Vec<Uuid> = unended.clone().map(|child| child.id).collect();
            if open.is_empty() {
                return Ok(());
            }
            let asked_for = of_these(&persons.borrow_and_update(), &open);
            // A chat of another agent may be what waits for a person.
            let waits = |child: &Child| {
                child.state == Some(State::WaitingApproval) || asked_for.contains(&child.id)
            };
            let (person, only_person) = (unended.clone().any(waits), unended.clone().all(waits));
            // So that the time of who asked this one does not pass either.
            if person != waits_for_one.is_some() {
                waits_for_one = person.then(|| self.agents.persons.wait_for(self.whose.id));
            }
            let since = Instant::now();
            let deadline = since + self.left;
            tokio::select! {
                () = self.stops.cancel.cancelled() => return Err(self.stopped()),
                () = self.stops.drain.cancelled(), if only_person => {
                    return Err(Box::new(Outcome::plain(Ending::Left)));
                }
                // While a person is asked, it is their time.
                () = sleep_until(deadline), if !person => {
                    self.left = Duration::ZERO;
                    return Err(Box::new(self.out_of_time()));
                }
                () = are_others(&mut persons, &open, &asked_for) => {}
                change = one_of(changes, &open) => match change {
                    Ok(change) => {
                        if let Some(child) = children.iter_mut().find(|it| it.id == change.id) {
                            self.look(std::slice::from_mut(child)).await;
                        }
                    }
                    Err(RecvError::Lagged(_)) => self.look(children).await,
                    Err(RecvError::Closed) => return Err(self.stopped()),
                },
            }
            if !person {
                self.left = self.left.saturating_sub(since.elapsed());
            }
        }
    }

    /// Looks where these stand.
    async fn look(&mut self, children: &mut [Child]) {
        for child in children.iter_mut().filter(|child| child.told.is_none()) {
            match self.agents.storage.read().action(child.id) {
                Ok(Some(record)) => self.heard(child, &record).await,
                Ok(None) => child.told = Some(result::ours("its record is not kept any more")),
                // The next change, or the deadline, looks again.
                Err(_) => {}
            }
        }
    }

    /// An action stands here now.
    async fn heard(&mut self, child: &mut Child, record: &ActionRecord) {
        if child.state == Some(record.state) {
            return;
        }
        child.state = Some(record.state);
        if record.state.is_final() {
            child.told = Some(self.came_to(record));
        }
        let waits = record.state == State::WaitingApproval;
        let why = child.told.as_ref().filter(|told| told.failed);
        let called = ToolCalled {
            action_id: Some(record.id.to_string()),
            risk: Some(record.risk),
            digest: waits.then_some(record.digest),
            summary: records::summary(&record.plan),
            expires_at: record.expires_ms.filter(|_| waits),
            why: why.map(|told| records::shorten_to(&told.text, 500)),
            ..blank(&child.tool, record.state.as_str())
        };
        self.listener.tool(called).await;
    }

    /// What an action came to. What a skill gave back also comes from where that came from which it keeps, and what an agent
    /// said from where all came from that it has read.
    fn came_to(&self, record: &ActionRecord) -> result::Told {
        let told = result::of(record);
        if context::is_ours(&told.taint) {
            return told;
        }
        if let Operation::Chat(_) = &record.plan.operation {
            return self.said_by_another(record, told);
        }
        let Some(call) = record.plan.operation.tool() else {
            return told;
        };
        let skill = self.agents.skills.get(&call.skill);
        let labels = &self.agents.labels;
        let kept = labels.of(skill.as_deref(), &record.plan.agent, call);
        let confidential = skill.as_deref().and_then(|skill| {
            let tool = skill.tools.get(&call.tool)?;
            Some(tool.confidential(skill))
        });
        // Nobody knows any more what a tool that is gone gives back.
        let confidential = confidential.unwrap_or_else(|| TaintSet::of(Taint::Secret));
        self.stays(result::Told {
            taint: told.taint.with(&kept).with(&confidential),
            ..told
        })
    }

    /// What nobody may be told who could answer is told to nobody, so that the turn can go on without it: what is secret stays on this
    /// host (rule R4), whatever its agent may take out, and what is private goes to whom its provider's `may_receive` lets it.
    fn stays(&self, told: result::Told) -> result::Told {
        let labels = self.taint.clone().with(&told.taint);
        if self.ready.targets.iter().any(|it| it.may_receive(&labels)) {
            return told;
        }
        result::untold(Ceiling::over(&labels))
    }

    /// What another agent said. What it read is read by whoever hears it; and what was said on this host stays here.
    fn said_by_another(&self, record: &ActionRecord, told: result::Told) -> result::Told {
        let session = record.plan.session.as_deref();
        let read = session.and_then(|id| id.parse().ok()).and_then(|id| {
            let store = self.agents.storage.read();
            let session = store.session(id).ok()??;
            let turns = store.turns(id, 0, LOOKED_THROUGH).ok()?;
            Some((session.taint, turns))
        });
        let Some((taint, turns)) = read else {
            return result::ours(
                "its conversation is not kept any more, so nobody knows where it came from",
            );
        };
        let providers = Arc::clone(&self.agents.providers.borrow());
        // What was not looked through may have been said here.
        let here =
            turns.iter().any(|turn| providers.said_here(turn)) || turns.len() == LOOKED_THROUGH;
        let targets = &self.ready.targets;
        let stays = here && !self.ready.settings.may_leave_host;
        if stays && !targets.iter().any(|it| it.known.settings.is_local()) {
            return result::ours(
                "its answer stays on this host, and the model of this turn is not on it",
            );
        }
        let by = turns.iter().rfind(|turn| turn.provider.is_some());
        self.stays(result::Told {
            taint: told.taint.with(&taint),
            by: by.and_then(|turn| Some((turn.provider.clone()?, turn.model.clone()?, here))),
            ..told
        })
    }

    /// The turn ends without them: what has not ended is taken back, all of it at once.
    async fn take_back(&self, door: &Door, children: &[Child], changes: &Receiver<Change>) {
        let open = children.iter().filter(|child| child.told.is_none());
        join_all(open.map(|child| self.take_one_back(door, child.id, changes.resubscribe()))).await;
    }

    /// One that is just changing is cancelled after its change.
    async fn take_one_back(&self, door: &Door, id: Uuid, mut changes: Receiver<Change>) {
        while let Err(error) = door.actions.cancel(id, self.whose.caller.clone()).await {
            let changed =
                async { while changes.recv().await.is_ok_and(|change| change.id != id) {} };
            if error.data.kind != ErrorKind::Busy || timeout(CHANGING, changed).await.is_err() {
                return;
            }
        }
    }
}

fn result_of(call: &CallRecord, told: result::Told, most: usize) -> More {
    let of = ResultOf {
        call: call.id.clone(),
        tool: records::shorten_to(&call.name, MAX_ID),
        failed: told.failed,
    };
    More::result(of, told.taint, bounded(&told.text, most))
}

fn tool_name(which: &told::Which) -> String {
    format!("{}/{}", which.skill, which.tool)
}

fn refused(call: &CallRecord, why: &str) -> ToolCalled {
    ToolCalled {
        summary: records::shorten(&format!("{} {}", call.name, call.arguments)),
        why: Some(why.to_owned()),
        ..blank(&records::shorten_to(&call.name, MAX_ID), "refused")
    }
}

fn blank(tool: &str, state: &str) -> ToolCalled {
    ToolCalled {
        action_id: None,
        tool: tool.to_owned(),
        state: state.to_owned(),
        risk: None,
        digest: None,
        summary: String::new(),
        expires_at: None,
        why: None,
    }
}
