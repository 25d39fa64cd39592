//! `sandbox.*`

use std::{collections::BTreeMap, sync::PoisonError};

use base64::Engine as _;
use jsonrpsee::{
    Extensions, PendingSubscriptionSink, SubscriptionSink,
    core::{RpcResult, SubscriptionResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    audit::{Entry, Event},
    error::ErrorData,
    sandbox::{
        RunEvent, RunSpec, RuntimeInfo, SandboxDetail, SandboxInfo, SandboxRpcServer, SandboxUsage,
        SandboxesForgotten, TerminalSize,
    },
};
use paw_launch::request::{ProofState, SandboxId};
use paw_policy::{Role, State};
use paw_store::{ActionRecord, Caller};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::{Family, Input, fail, send};
use crate::{
    agent::asked::size_of,
    intake::may_see,
    orchestrator::work::Progress,
    records,
    rpc::{
        caller,
        family::shown::{detail, tell_log, unknown, usage_of},
    },
    sandbox::{Known, LauncherError},
};

/// Events of a command that may wait for a slow reader before the command is held back.
const EVENTS: usize = 16;

/// Pieces of input that may wait for the command.
const PIECES: usize = 8;

/// The longest piece of input, in bytes.
const MAX_PIECE: usize = 64 * 1024;

#[async_trait]
impl SandboxRpcServer for Family {
    async fn runtimes(&self, _: &Extensions) -> RpcResult<Vec<RuntimeInfo>> {
        let runtimes = self.launchers.runtimes().await;
        Ok(runtimes
            .into_iter()
            .map(|runtime| self.proofs.shown(runtime))
            .map(|runtime| RuntimeInfo {
                name: runtime.name.to_string(),
                state: match runtime.state {
                    ProofState::Proven => "proven".into(),
                    ProofState::Unverified => "unverified".into(),
                    ProofState::Absent => "absent".into(),
                },
                version: runtime.version,
                isolation: runtime.isolation.to_string(),
                reason: runtime.reason,
            })
            .collect())
    }

    async fn run(
        &self,
        pending: PendingSubscriptionSink,
        extensions: &Extensions,
        spec: RunSpec,
    ) -> SubscriptionResult {
        let detached = spec.detach;
        let begun = match caller(extensions) {
            Ok(caller) => self.begin_run(spec, caller).await,
            Err(error) => Err(error),
        };
        match begun {
            Ok((record, caller, events)) => {
                let id = record.id;
                if let Ok(sink) = pending.accept().await {
                    self.tell_run((record, detached), caller, events, sink)
                        .await;
                } else {
                    // Gone before it could be told anything.
                    drop(self.actions.cancel(id, caller).await);
                }
                self.inputs
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&id);
            }
            Err(error) => pending.reject(fail(error)).await,
        }
        Ok(())
    }

    async fn input(
        &self,
        extensions: &Extensions,
        id: String,
        data: Option<String>,
        end: Option<bool>,
    ) -> RpcResult<bool> {
        let caller = caller(extensions).map_err(fail)?;
        let to = {
            let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
            let found = of(&mut inputs, &id, caller.uid, |input| input.to.is_some());
            let to = found.and_then(|input| {
                if end == Some(true) {
                    input.to.take()
                } else {
                    input.to.clone()
                }
            });
            let Some(to) = to else {
                let hint = "start it with stdin = true, and send input only while it runs";
                return Err(fail(
                    Error::new(
                        ErrorKind::NotFound,
                        "no command of yours takes input under this id",
                        hint,
                    )
                    .about(id),
                ));
            };
            to
        };
        let Some(data) = data else { return Ok(true) };
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(&data)
            .ok()
            .filter(|bytes| bytes.len() <= MAX_PIECE);
        let Some(bytes) = bytes else {
            let hint = "send at most 64 KiB at a time";
            return Err(fail(Error::new(
                ErrorKind::Invalid,
                "the input is not base64, or too long",
                hint,
            )));
        };
        to.send(Ok(bytes.into())).await.map_err(|_| {
            fail(Error::new(
                ErrorKind::Conflict,
                "the command takes no more input",
                "it has ended, or closed its stdin",
            ))
        })?;
        Ok(true)
    }

    async fn resize(
        &self,
        extensions: &Extensions,
        id: String,
        rows: u32,
        cols: u32,
    ) -> RpcResult<bool> {
        let caller = caller(extensions).map_err(fail)?;
        let size = size_of(&TerminalSize { rows, cols }).map_err(fail)?;
        let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        let found = of(&mut inputs, &id, caller.uid, |input| input.size.is_some());
        let Some(to) = found.and_then(|input| input.size.as_ref()) else {
            let hint = "start it with `terminal`, and change its size only while it runs";
            let message = "no command of yours has a terminal under this id";
            return Err(fail(
                Error::new(ErrorKind::NotFound, message, hint).about(id),
            ));
        };
        to.send_replace(size);
        Ok(true)
    }

    async fn list(&self, _: &Extensions) -> RpcResult<Vec<SandboxInfo>> {
        let sandboxes = self.launchers.list().await.map_err(|error| away(&error))?;
        Ok(sandboxes
            .into_iter()
            .map(|sandbox| SandboxInfo {
                id: sandbox.id.to_string(),
                runtime: sandbox.runtime.to_string(),
                pid: sandbox.pid,
                age_ms: sandbox.age_ms,
                memory: sandbox.limits.memory,
                pids: sandbox.limits.pids,
                attestation: sandbox.attestation.to_string(),
                state: if sandbox.waiting {
                    "waiting"
                } else {
                    "running"
                }
                .into(),
            })
            .collect())
    }

    async fn show(&self, extensions: &Extensions, id: String) -> RpcResult<SandboxDetail> {
        let caller = caller(extensions).map_err(fail)?;
        let (id, known) = self.known(&id, &caller).map_err(fail)?;
        let usage = match known.end {
            Some(end) => Some(usage_of(&id, end.usage)),
            // It may end between the look and the question; then its end is there in a moment.
            None => self
                .launchers
                .stats(id.clone())
                .await
                .ok()
                .map(|usage| usage_of(&id, usage)),
        };
        let net = self.ways.of(&id).map(|way| way.usage());
        Ok(detail(&id, known, usage, net))
    }

    async fn stats(
        &self,
        extensions: &Extensions,
        id: Option<String>,
    ) -> RpcResult<Vec<SandboxUsage>> {
        let caller = caller(extensions).map_err(fail)?;
        let ids = match id {
            Some(id) => vec![self.known(&id, &caller).map_err(fail)?.0],
            None => {
                let all = self.launchers.list().await.map_err(|error| away(&error))?;
                let own = |id: &SandboxId| {
                    self.register
                        .known(id)
                        .is_some_and(|known| known.owner == caller.uid)
                };
                all.into_iter()
                    .map(|sandbox| sandbox.id)
                    .filter(|id| caller.role == Role::Admin || own(id))
                    .collect()
            }
        };
        let mut used = Vec::with_capacity(ids.len());
        for id in ids {
            match self.launchers.stats(id.clone()).await {
                Ok(usage) => used.push(usage_of(&id, usage)),
                // One that has ended meanwhile uses nothing any more.
                Err(LauncherError::Refused(_)) => {}
                Err(error) => return Err(away(&error)),
            }
        }
        Ok(used)
    }

    async fn logs(
        &self,
        pending: PendingSubscriptionSink,
        extensions: &Extensions,
        id: String,
        follow: Option<bool>,
    ) -> SubscriptionResult {
        let found = caller(extensions).and_then(|caller| {
            let (id, _) = self.known(&id, &caller)?;
            self.register.log(&id).ok_or_else(|| unknown(id.as_str()))
        });
        match found {
            Ok(log) => {
                let sink = pending.accept().await?;
                tell_log(&log, &sink, follow == Some(true)).await;
            }
            Err(error) => pending.reject(fail(error)).await,
        }
        Ok(())
    }

    async fn gc(&self, _: &Extensions) -> RpcResult<SandboxesForgotten> {
        let (sandboxes, bytes) = self.register.forget_ended();
        Ok(SandboxesForgotten {
            sandboxes: sandboxes as u64,
            bytes: bytes as u64,
        })
    }

    async fn kill(&self, extensions: &Extensions, id: String) -> RpcResult<bool> {
        let caller = caller(extensions).map_err(fail)?;
        let known = id.parse().map_err(|_| {
            fail(
                Error::new(
                    ErrorKind::Invalid,
                    "that is no id of a sandbox",
                    "see `pawctl sandbox list`",
                )
                .about(&id),
            )
        })?;
        let mut entry = Entry::new(Event::SandboxKilled);
        entry.actor = Some(records::actor(&caller));
        entry.detail.insert("sandbox".into(), id);
        let recorded = self.audit.durable(entry).await;
        recorded.map_err(|error| {
            fail(Error::new(
                ErrorKind::Unavailable,
                error.to_string(),
                error.remedy(),
            ))
        })?;
        self.launchers
            .kill(known)
            .await
            .map_err(|error| away(&error))?;
        Ok(true)
    }
}

impl Family {
    /// A sandbox of a person's command that this caller may see.
    fn known(&self, id: &str, caller: &Caller) -> Result<(SandboxId, Known), Error> {
        let parsed: SandboxId = id.parse().map_err(|_| unknown(id))?;
        let known = self
            .register
            .known(&parsed)
            .filter(|known| may_see(caller, known.owner))
            .ok_or_else(|| unknown(id))?;
        Ok((parsed, known))
    }

    async fn begin_run(
        &self,
        spec: RunSpec,
        caller: Caller,
    ) -> Result<(ActionRecord, Caller, mpsc::Receiver<RunEvent>), Error> {
        let (output, events) = mpsc::channel(EVENTS);
        let (to, input) = mpsc::channel(PIECES);
        let stdin = spec.stdin;
        let size = spec.terminal.as_ref().map(size_of).transpose()?;
        let (size, terminal) = size.map(watch::channel).unzip();
        let progress = Progress::Run {
            output,
            input: stdin.then_some(input),
            terminal,
        };
        let submission = self.intake.judge_run(spec, caller.clone(), progress)?;
        let id = submission.record.id;
        if stdin || size.is_some() {
            let input = Input {
                uid: caller.uid,
                sandbox: None,
                to: stdin.then_some(to),
                size,
            };
            self.inputs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id, input);
        }
        match self.actions.submit(submission).await {
            Ok(record) => Ok((record, caller, events)),
            Err(error) => {
                self.inputs
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&id);
                Err(error)
            }
        }
    }

    /// Passes output on and ends with `ended` or `failed`. A client that is gone cancels the action, which kills the sandbox;
    /// one that asked for a detached run hears of its start, and then of nothing more.
    async fn tell_run(
        &self,
        (record, detached): (ActionRecord, bool),
        caller: Caller,
        mut events: mpsc::Receiver<RunEvent>,
        sink: SubscriptionSink,
    ) {
        let id = record.id;
        let (mut there, mut begun) = (true, true);
        let mut goes_on = format!("see what became of it: pawctl action show {id}");
        if record.state == State::WaitingApproval {
            begun = false;
            there = send(
                &sink,
                &RunEvent::Waiting {
                    action_id: id.to_string(),
                },
            )
            .await;
        }
        while there {
            tokio::select! {
                event = events.recv() => match event {
                    Some(RunEvent::Started { id: sandbox, .. }) => {
                        begun = true;
                        if let Some(input) = self.inputs.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&id) {
                            input.sandbox = Some(sandbox.clone());
                        }
                        goes_on = format!("it may go on: pawctl action wait {id}; pawctl sandbox logs -f {sandbox}");
                        there = send(&sink, &RunEvent::Started { action_id: id.to_string(), id: sandbox }).await;
                        if detached {
                            return;
                        }
                    }
                    Some(event) => there = send(&sink, &event).await,
                    None => break,
                },
                () = sink.closed() => there = false,
            }
        }
        if !there && begun && !detached {
            // The action may have ended meanwhile; then there is nothing to cancel.
            drop(self.actions.cancel(id, caller).await);
        }
        if !there {
            // A question goes on without who asked it: the result is in the record.
            return;
        }
        let last = match self.settled(id, super::FOREVER, State::is_final).await {
            Ok(record) => run_end(record),
            Err(error) => RunEvent::Failed {
                message: error.message().to_owned(),
                error: ErrorData {
                    kind: ErrorKind::Unavailable,
                    hint: goes_on,
                    retry_after_ms: None,
                    id: Some(id.to_string()),
                },
            },
        };
        send(&sink, &last).await;
    }
}

/// What is kept of a command of this user, by the id of its action or of its sandbox.
fn of<'a>(
    inputs: &'a mut BTreeMap<Uuid, Input>,
    id: &str,
    uid: u32,
    fits: impl Fn(&Input) -> bool,
) -> Option<&'a mut Input> {
    let found = inputs.iter_mut().find(|(action, input)| {
        let named = action.to_string() == id || input.sandbox.as_deref() == Some(id);
        named && input.uid == uid && fits(input)
    });
    found.map(|(_, input)| input)
}

fn run_end(record: ActionRecord) -> RunEvent {
    if record.state == State::Completed
        && let Some(result) = record
            .result
            .and_then(|value| serde_json::from_value(value).ok())
    {
        return RunEvent::Ended(result);
    }
    let (kind, message, hint) = super::why(record.state, record.error);
    RunEvent::Failed {
        message,
        error: ErrorData {
            kind,
            hint,
            retry_after_ms: None,
            id: Some(record.id.to_string()),
        },
    }
}

/// The launcher did not do its part.
pub(super) fn away(error: &LauncherError) -> jsonrpsee::types::ErrorObjectOwned {
    use paw_launch::request::RefusalReason;
    let kind = match error {
        LauncherError::Refused(refusal) => match refusal.reason {
            RefusalReason::NotFound => ErrorKind::NotFound,
            RefusalReason::Full | RefusalReason::Memory => ErrorKind::Busy,
            RefusalReason::Ceiling => ErrorKind::Denied,
            RefusalReason::Unsupported => ErrorKind::Unavailable,
            RefusalReason::Malformed
            | RefusalReason::Exists
            | RefusalReason::Missing
            | RefusalReason::Runtime
            | RefusalReason::Attestation
            | RefusalReason::Failed => ErrorKind::Failed,
        },
        LauncherError::Away { .. } | LauncherError::Lost | LauncherError::Slow(_) => {
            ErrorKind::Unavailable
        }
        LauncherError::Confused { .. } | LauncherError::Unsendable(_) => ErrorKind::Internal,
    };
    fail(Error::new(
        kind,
        paw_log::Chain(error).to_string(),
        "see `systemctl status 'paw-launcher*'` and `pawctl doctor`",
    ))
}
