//! A tool of a skill, in a sandbox of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use paw_api::egress::{BadRule, NetRule};
use paw_launch::{
    NOT_ALLOWED,
    request::{Attestation, RefusalReason, SandboxId},
    workspace::Settle,
};
use paw_policy::{
    Name, TaintSet, ToolArguments,
    plan::{self, is_deeper_than},
};
use paw_store::Caller;
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Agents, granted,
    net::{Whose, no_way, way_out},
    skill::{disable, drift},
};
use crate::{
    labels::{Labels, LabelsError, Sending},
    orchestrator::work::{Ending, LAUNCHER_LOST, Outcome, failure},
    sandbox::{
        self, ChoiceError, LauncherError, LauncherState, McpError, Owner, SandboxError, Skill,
        ToolCall,
        least::{plan, reaches, writes},
        sandbox_id,
    },
    skills::Drift,
};

/// A sandbox id that nobody can guess.
pub(super) fn fresh_id() -> Result<SandboxId, Box<Outcome>> {
    let mut random = [0; 8];
    match getrandom::fill(&mut random) {
        Ok(()) => Ok(sandbox_id(random)),
        Err(error) => {
            let message = format!("draw a sandbox id: {error}");
            Err(Box::new(Outcome::failed(
                "internal",
                message,
                "look at the kernel's random source",
            )))
        }
    }
}

/// Bytes of an answer, as it is stored. A record has room for twice as much, and for its plan.
const MAX_ANSWER: usize = 512 * 1024;

/// What to do when a runtime isolates less than it must.
pub const TOO_WEAK: &str =
    "ask for a stronger runtime, or have the administrator set isolation_floor in pawd.toml";

/// What to do when no runtime isolates enough.
const NONE_HERE: &str = "see `pawctl sandbox runtimes`; install runsc (Debian: apt-get install runsc), or set isolation_floor = \"process\" in pawd.toml if that will do";

/// What to do when a runtime is not used because its launcher may not.
const ALLOW_IT: &str =
    "add it to runtimes in the file that is named, in /etc/pawd, and restart that launcher";

/// What to do when every place for a sandbox is taken.
const NO_PLACE: &str =
    "wait for one to end (pawctl sandbox list), or raise max_sandboxes in launcher.toml";

/// What to do when what is known of a runtime speaks against it.
const UNPROVEN: &str = "see `pawctl sandbox runtimes`, mend it, and run `pawctl doctor --prove`";

/// What to do when a skill is not what was approved.
const DRIFTED: &str = "it is disabled: see `pawctl skill verify`; find out who changed it, then `pawctl skill install` or `pawctl skill enable`";

/// What to do when the launcher does not answer.
const LAUNCHER_AWAY: &str = "see `systemctl status 'paw-launcher*'` and `pawctl doctor`";

/// What to do when the launcher ended in the middle.
const WAS_LOST: &str = "look at what was done so far, then submit it again if it is still wanted; why the launcher ended is in its journal (journalctl -u 'paw-launcher*')";

/// How long a call that is done again waits for the launcher to be back.
const BACK: Duration = Duration::from_secs(10);

/// What was interrupted by the end of the launcher is done again: first it has to be there again. `launcher` has seen how it was before.
pub(super) async fn wait_for_launcher(
    outcome: &Outcome,
    mut launcher: watch::Receiver<LauncherState>,
    cancel: &CancellationToken,
) {
    if !matches!(&outcome.ending, Ending::Failed(failure) if failure.kind == LAUNCHER_LOST) {
        return;
    }
    let back = async {
        while launcher.changed().await.is_ok() {
            if matches!(
                *launcher.borrow_and_update(),
                LauncherState::Connected { .. }
            ) {
                return;
            }
        }
    };
    tokio::select! {
        // Whoever is not back by then is told as what it is: away.
        _ = timeout(BACK, back) => {}
        () = cancel.cancelled() => {}
    }
}

/// Calls a tool, if its skill is still the one that was judged.
pub(super) async fn call(
    agents: &Agents,
    (action, caller, owner, through): (Uuid, &Caller, Owner, &[Name]),
    call: ToolArguments,
    cancel: &CancellationToken,
) -> Outcome {
    let limit = agents.config.borrow().actions.tool_timeout;
    let Some(skill) = agents.skills.get(&call.skill) else {
        return Outcome::failed(
            "not_found",
            format!("there is no skill {}", call.skill),
            "see `pawctl skill list`",
        );
    };
    if skill.digest != call.skill_digest {
        let message = format!("skill {} has changed since this was judged", call.skill);
        return Outcome::failed(
            "skill_changed",
            message,
            "submit it again: it is judged anew",
        );
    }
    // Since it was judged, the skill may have been taken from the agent.
    let may = {
        let config = agents.config.borrow();
        let settings = config.agents.get(&owner.agent);
        settings.is_some_and(|settings| settings.skills.contains(&call.skill))
    };
    if !may {
        let message = format!(
            "agent {} may not use skill {} any more",
            owner.agent, call.skill
        );
        let hint = "add it to the agent's skills in pawd.toml";
        return Outcome::failed("denied", message, hint);
    }
    match drift(agents, &skill, caller).await {
        Ok(None) => {}
        Ok(Some(why)) => return Outcome::failed("skill_drifted", why, DRIFTED),
        Err(error) => return Outcome::failed("internal", error.to_string(), "report it"),
    }
    // What names its place reaches that alone, and no broker with a secret.
    if call.net.is_none()
        && skill
            .tools
            .get(&call.tool)
            .is_some_and(|tool| reaches(tool.class))
        && let Err(outcome) =
            granted::secrets(agents, &skill, (action, caller, &owner, through)).await
    {
        return *outcome;
    }
    // While it sends, nothing secret comes to where it reads.
    let _sending = match sends(agents, &skill, &owner, &call) {
        Ok(sending) => sending,
        Err(outcome) => return *outcome,
    };
    if let Err(outcome) = leave_label(agents, &skill, &owner, &call).await {
        return *outcome;
    }
    let (floor, proof_is_required, then) = {
        let config = agents.config.borrow();
        let (floor, then) = config.agents.get(&owner.agent).map_or(
            (config.sandbox.isolation_floor, Settle::Stage),
            |settings| (settings.isolation_floor, settings.workspace),
        );
        (floor, config.sandbox.require_proof, then)
    };
    let chosen = sandbox::choose(
        &agents.launchers,
        &agents.proofs,
        proof_is_required,
        None,
        floor,
    );
    let runtime = match chosen.await {
        Ok(runtime) => runtime,
        Err(error) => return not_chosen(&error),
    };
    let id = match fresh_id() {
        Ok(id) => id,
        Err(outcome) => return *outcome,
    };
    let (agent, uid, taint) = (owner.agent.clone(), owner.uid, owner.taint.clone());
    let (id, origin) = match skill.tools.get(&call.tool) {
        Some(tool) => {
            let mut plan = plan(&skill, tool.class, &agent, (runtime, floor), (id, uid));
            let origin = agents.pool.origin(owner, &mut plan).await;
            (plan.id, origin)
        }
        // Nothing is made for a tool that there is not.
        None => (id, agents.pool.cold()),
    };
    let name = id.to_string();
    let keeping = AtomicBool::new(false);
    let rules = match rules(&skill, &call) {
        Ok(rules) => rules,
        Err(bad) => return unreadable_rule(&bad),
    };
    let whose = Whose {
        action,
        caller,
        agent: &agent,
        through,
        skill: Some(&skill),
        taint: &taint,
    };
    let (way, recording) = match way_out(agents, &id, whose, rules) {
        Ok(way) => way,
        Err(outcome) => return *outcome,
    };
    let used = way.as_ref().map(|(way, _)| Arc::clone(way));
    let request = ToolCall {
        skill: &skill,
        tool: &call.tool,
        arguments: call.arguments,
        agent: &agent,
        runtime,
        floor,
        id,
        owner: uid,
        then,
        keeping: &keeping,
        limit,
    };
    let net = way.map(|(_, net)| net);
    // The call ends what it says about its network, so its records are complete before its answer is.
    let calling = async {
        let called = sandbox::call(agents.launchers.usual(), origin, net, request);
        tokio::join!(called, recording).0
    };
    let called = tokio::select! {
        called = calling => called,
        () = cancelled(cancel, &keeping) => return Outcome { sandbox: Some(name), ..Outcome::plain(Ending::Cancelled) },
    };
    match called {
        Ok(answer) => {
            let ending = if let Err(why) = keepable(&answer.text, answer.structured.as_ref()) {
                let message = format!("the tool was done, and {why}");
                Ending::Failed(failure("too_long", message, "have it answer less"))
            } else if answer.is_error {
                let hint = "the tool ran and says so itself; look at its arguments";
                Ending::Failed(failure(
                    "tool",
                    crate::records::shorten_to(&answer.text, 2_000),
                    hint,
                ))
            } else {
                Ending::Completed(json!({
                    "text": answer.text,
                    "structured": answer.structured,
                    "sandbox": sandbox_facts(&answer.sandbox, &answer.attestation),
                    "usage": answer.usage,
                    "workspace": answer.layer,
                    "net": used.map(|way| way.usage()),
                }))
            };
            Outcome {
                sandbox: Some(name),
                attestation: Some(answer.attestation.digest),
                ..Outcome::plain(ending)
            }
        }
        Err(error) => {
            if let McpError::Drifted { skill: of, why } = &error {
                let drift = Drift {
                    skill: of.clone(),
                    digest: skill.digest,
                    why: why.clone(),
                };
                disable(&agents.installed, &agents.audit, drift, Some(caller)).await;
            }
            Outcome {
                sandbox: Some(name),
                ..not_called(&error)
            }
        }
    }
}

/// What the sandbox of this call may reach. What names its place reaches that and nothing else: it is what was judged, and what a person
/// said yes to, whatever the manifest allows to other tools.
fn rules(skill: &Skill, call: &ToolArguments) -> Result<Vec<NetRule>, BadRule> {
    match (&call.net, skill.tools.get(&call.tool)) {
        (Some(named), _) => Ok(vec![named.parse()?]),
        (None, Some(tool)) if reaches(tool.class) && tool.url.is_none() => Ok(skill.net.clone()),
        (None, Some(_) | None) => Ok(Vec::new()),
    }
}

/// What the plan has it reach is written by pawd, so this is a fault of ours.
fn unreadable_rule(bad: &BadRule) -> Outcome {
    Outcome::failed("internal", bad.to_string(), "report it")
}

/// Before a call that may write: what it writes came from where the call did, or from what it sees beside the workspace.
async fn leave_label(
    agents: &Agents,
    skill: &Arc<Skill>,
    owner: &Owner,
    call: &ToolArguments,
) -> Result<(), Box<Outcome>> {
    let Some(tool) = skill.tools.get(&call.tool).filter(|it| writes(it.class)) else {
        return Ok(());
    };
    if !skill.workspace.any() {
        return Ok(());
    }
    let taint = owner.taint.clone().with(&tool.sees(skill));
    let (skill, call, agent) = (Arc::clone(skill), call.clone(), owner.agent.clone());
    left(agents, move |labels| {
        labels.leave(&skill, &agent, &call, &taint)
    })
    .await
}

/// Leaves a label, on a thread that may block; what it is left for does not begin without.
pub(super) async fn left(
    agents: &Agents,
    leave: impl FnOnce(&Labels) -> Result<(), LabelsError> + Send + 'static,
) -> Result<(), Box<Outcome>> {
    let labels = Arc::clone(&agents.labels);
    let left = tokio::task::spawn_blocking(move || leave(&labels)).await;
    let failed = |kind, message, hint| Err(Box::new(Outcome::failed(kind, message, hint)));
    match left {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error @ LabelsError::Sending { .. })) => failed(
            "busy",
            error.to_string(),
            "submit it again when that has ended: see `pawctl action list` and `pawctl sandbox list`",
        ),
        Ok(Err(error)) => failed(
            "unavailable",
            paw_log::Chain(&error).to_string(),
            "see whether the disk of pawd's state is full or read-only",
        ),
        Err(error) => failed("unavailable", error.to_string(), "report it"),
    }
}

/// A call that sends, and sees a directory, says so while it does.
fn sends(
    agents: &Agents,
    skill: &Skill,
    owner: &Owner,
    call: &ToolArguments,
) -> Result<Option<Sending>, Box<Outcome>> {
    match skill.directory(&owner.agent) {
        Some(directory) if reaches(call.class) || call.net.is_some() => {
            begins_to_send(agents, directory, &owner.taint).map(Some)
        }
        Some(_) | None => Ok(None),
    }
}

/// The same for whatever sees this directory.
pub(super) fn begins_to_send(
    agents: &Agents,
    directory: Name,
    judged: &TaintSet,
) -> Result<Sending, Box<Outcome>> {
    agents.labels.sends(directory, judged).ok_or_else(|| {
        let message = "what is secret has come to the directory that it sends from";
        Box::new(Outcome::failed("denied", message, "it stays on this host"))
    })
}

/// Waits until it shall stop. What is being kept already is not stopped, or a call would be said to be cancelled whose files are
/// there; keeping has a deadline of its own.
pub(super) async fn cancelled(cancel: &CancellationToken, keeping: &AtomicBool) {
    cancel.cancelled().await;
    if keeping.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

pub(super) fn not_called(error: &McpError) -> Outcome {
    let message = paw_log::Chain(error).to_string();
    match error {
        McpError::NoTool { .. } => Outcome::failed("not_found", message, "see `pawctl skill show`"),
        McpError::Egress { source, .. } => no_way(source),
        McpError::Sandbox { source, .. } => not_made(source, message),
        McpError::Protocol { .. } => Outcome::failed(
            "protocol",
            message,
            "the skill is broken; look at its own messages",
        ),
        McpError::Ended { end, .. } if end.timed_out => timed_out(message),
        McpError::Ended { end, .. } if end.oom_killed => Outcome::failed(
            "out_of_memory",
            message,
            "raise the memory limit in its skill.toml, or ask it for less",
        ),
        McpError::Ended { .. } => Outcome::failed(
            "tool",
            message,
            "the skill is broken; look at its own messages",
        ),
        McpError::NotKept { source, .. } => {
            let kind = if source.is_conflict() {
                "conflict"
            } else {
                "workspace"
            };
            Outcome::failed(kind, message, source.remedy())
        }
        McpError::Slow { .. } => timed_out(message),
        McpError::Drifted { .. } => Outcome::failed("skill_drifted", message, DRIFTED),
    }
}

/// No runtime makes this sandbox.
pub(super) fn not_chosen(error: &ChoiceError) -> Outcome {
    let message = paw_log::Chain(error).to_string();
    match error {
        ChoiceError::TooWeak { .. } => Outcome::failed("isolation", message, TOO_WEAK),
        // Why it is not here says what is to be mended, where that is known: what the launcher may use is root's to say.
        ChoiceError::Absent { why, .. } | ChoiceError::None { why, .. }
            if why.contains(NOT_ALLOWED) =>
        {
            Outcome::failed("isolation", message, ALLOW_IT)
        }
        ChoiceError::Absent { .. } | ChoiceError::None { .. } => {
            Outcome::failed("isolation", message, NONE_HERE)
        }
        ChoiceError::Unproven { .. } => Outcome::failed("isolation", message, UNPROVEN),
        ChoiceError::Launcher(_) => Outcome::failed("unavailable", message, LAUNCHER_AWAY),
    }
}

fn timed_out(message: String) -> Outcome {
    Outcome::plain(Ending::TimedOut(failure(
        "timed_out",
        message,
        "raise its timeout, or ask it for less",
    )))
}

/// The sandbox, or the command in it, was not made.
pub(super) fn not_made(error: &SandboxError, message: String) -> Outcome {
    match error {
        SandboxError::Orphaned { .. } | SandboxError::Launcher(LauncherError::Lost) => {
            Outcome::failed(LAUNCHER_LOST, message, WAS_LOST)
        }
        SandboxError::Launcher(LauncherError::Away { .. } | LauncherError::Slow(_)) => {
            Outcome::failed("unavailable", message, LAUNCHER_AWAY)
        }
        SandboxError::Launcher(LauncherError::Refused(refusal)) => {
            let kind = match refusal.reason {
                RefusalReason::Missing => "not_found",
                RefusalReason::Ceiling => "ceiling",
                RefusalReason::Full | RefusalReason::Memory => "busy",
                RefusalReason::Runtime | RefusalReason::Unsupported => "unavailable",
                RefusalReason::Malformed
                | RefusalReason::Exists
                | RefusalReason::NotFound
                | RefusalReason::Attestation
                | RefusalReason::Failed => "sandbox",
            };
            Outcome::failed(kind, message, refusal.remedy.clone())
        }
        SandboxError::NotStarted { source, step, .. } => {
            let kind = if source.kind() == std::io::ErrorKind::NotFound {
                "not_found"
            } else {
                "not_started"
            };
            let hint = match step.as_str() {
                "cwd" => "name a directory that is there inside (--workdir), or none",
                "env" | "argv" => "look at the arguments and the environment of the command",
                _ => "look at the command, its path inside and its mode",
            };
            Outcome::failed(kind, message, hint)
        }
        SandboxError::NoPlace { .. } => {
            Outcome::plain(Ending::TimedOut(failure("timed_out", message, NO_PLACE)))
        }
        SandboxError::Crowded { .. } => {
            let mut busy = failure("busy", message, NO_PLACE);
            busy.retry_after_ms = Some(2_000);
            Outcome::plain(Ending::Failed(busy))
        }
        _ => Outcome::failed(
            "sandbox",
            message,
            "see `pawctl doctor` and the journal of paw-launcher",
        ),
    }
}

/// Whether an answer can be stored, and read again.
fn keepable(text: &str, structured: Option<&Value>) -> Result<(), String> {
    let structured = structured.map_or_else(String::new, Value::to_string);
    let text = serde_json::to_vec(text).map_or(usize::MAX, |text| text.len());
    let length = text.saturating_add(structured.len());
    if length > MAX_ANSWER {
        return Err(format!("answered {length} bytes; {MAX_ANSWER} are taken"));
    }
    if is_deeper_than(plan::MAX_DEPTH, structured.as_bytes()) {
        return Err(format!(
            "its answer is nested deeper than {} arrays and objects",
            plan::MAX_DEPTH
        ));
    }
    Ok(())
}

fn sandbox_facts(id: &SandboxId, attestation: &Attestation) -> Value {
    json!({"id": id, "attestation": {"digest": attestation.digest, "facts": attestation.facts}})
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures_util::FutureExt as _;
    use paw_policy::ToolClass;

    use super::*;
    use crate::sandbox::{Provenance, manifest::read_bundle};

    const FETCH: &str = include_str!("../../skills/fetch/skill.toml");

    #[test]
    fn call_that_names_its_place_reaches_that_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let net = "image = \"base\"\nnet = [\"mail.example:443\", \"broker/mail\"]";
        let manifest = FETCH.replacen("image = \"base\"", net, 1);
        fs::write(dir.path().join("skill.toml"), manifest).expect("written");
        let mut skill = read_bundle(dir.path(), Provenance::Installed).expect("it is one");
        let other = skill.tools["get"].clone();
        skill
            .tools
            .insert("other".into(), sandbox::Tool { url: None, ..other });
        let reached = |tool: &str, net: Option<&str>| -> Vec<String> {
            let call = ToolArguments {
                skill: skill.name.clone(),
                skill_digest: skill.digest,
                tool: tool.into(),
                class: ToolClass::Egress,
                arguments: serde_json::Map::new(),
                net: net.map(str::to_owned),
            };
            let rules = rules(&skill, &call).expect("they can be read");
            rules.iter().map(ToString::to_string).collect()
        };
        let named = "wiki.example:443,method=GET";
        assert_eq!(reached("get", Some(named)), [named]);
        assert_eq!(reached("get", None), Vec::<String>::new());
        assert_eq!(reached("other", None), ["mail.example:443", "broker/mail"]);
    }

    #[test]
    fn call_whose_files_are_being_kept_is_not_cancelled_any_more() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        for (keeping, stops) in [(false, true), (true, false)] {
            let keeping = AtomicBool::new(keeping);
            assert_eq!(cancelled(&cancel, &keeping).now_or_never().is_some(), stops);
        }
    }
}
