//! A skill that is installed, enabled again or removed, once a person has approved exactly that.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use paw_api::audit::{Entry, Event};
use paw_policy::{SkillArguments, SkillChange};
use paw_store::Caller;
use serde_json::{Value, json};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Agents,
    chat::usable,
    tool::{cancelled, fresh_id, not_called, not_chosen},
    turn::told::Told,
};
use crate::{
    audit::Audit,
    clock::now_ms,
    config::AgentSettings,
    orchestrator::work::{Ending, Outcome},
    records::actor,
    sandbox::{self, Announced, Owner, Skill, announce},
    skills::{Drift, Installed, Shown, SkillError},
};

/// Does it.
pub(super) async fn change(
    agents: &Agents,
    (action, caller, owner): (Uuid, &Caller, Owner),
    asked: SkillArguments,
    cancel: &CancellationToken,
) -> Outcome {
    let keeping = AtomicBool::new(false);
    let changing = async {
        match asked.change {
            SkillChange::Install | SkillChange::Enable => {
                put(agents, (action, caller, owner), asked, &keeping).await
            }
            SkillChange::Remove => remove(agents, (action, caller), asked, &keeping).await,
        }
    };
    tokio::select! {
        done = changing => match done {
            Ok(result) => Outcome::plain(Ending::Completed(result)),
            Err(outcome) => *outcome,
        },
        () = cancelled(cancel, &keeping) => Outcome::plain(Ending::Cancelled),
    }
}

async fn put(
    agents: &Agents,
    (action, caller, owner): (Uuid, &Caller, Owner),
    asked: SkillArguments,
    keeping: &AtomicBool,
) -> Result<Value, Box<Outcome>> {
    let digest = asked.digest;
    let skill = blocking(agents, move |installed| installed.load(&digest)).await?;
    if skill.name != asked.skill {
        return Err(failed(&SkillError::Changed(asked.skill)));
    }
    let announced = if skill.announces {
        Some(ask_its_program(agents, &skill, owner).await?)
    } else {
        None
    };
    fits(agents, &skill, announced.as_ref())?;
    let mut entry = about(caller, action, &asked);
    if let Some(announced) = &announced {
        let (detail, digest) = (&mut entry.detail, announced.digest.to_string());
        detail.insert("announced".into(), digest);
        if let Some(shown) = asked.announced.filter(|shown| *shown != announced.digest) {
            // Then it is not enabled.
            detail.insert("shown".into(), shown.to_string());
        }
    }
    // From its record on it is made, or has failed: what is told as cancelled is not there, and not in the log.
    keeping.store(true, Ordering::Relaxed);
    record(&agents.audit, entry).await?;
    let known = (asked.replaces, asked.announced);
    let put = move |installed: &Installed| installed.put(skill, announced, known, now_ms());
    let Shown { pin, skill } = blocking(agents, put).await?;
    if asked.change == SkillChange::Enable && !pin.enabled {
        let message = format!(
            "skill {} announces other tools than were shown",
            asked.skill
        );
        let hint = "look at them, and ask again: `pawctl skill enable` shows them now";
        return Err(Box::new(Outcome::failed("skill_drifted", message, hint)));
    }
    tracing::info!(
        message_id = paw_log::events::SKILL_CHANGED,
        paw_action = %action,
        skill = %asked.skill,
        digest = %pin.digest,
        enabled = pin.enabled,
        "a skill was approved"
    );
    let tools = skill.as_ref().map(|skill| &skill.tools);
    let tools = tools
        .into_iter()
        .flatten()
        .map(|(name, tool)| (name.clone(), json!(tool.class)));
    Ok(json!({
        "change": asked.change,
        "skill": asked.skill,
        "version": pin.version,
        "digest": pin.digest,
        "enabled": pin.enabled,
        "why": pin.why,
        "announced": pin.announced,
        "tools": tools.collect::<serde_json::Map<_, _>>(),
    }))
}

async fn remove(
    agents: &Agents,
    (action, caller): (Uuid, &Caller),
    asked: SkillArguments,
    keeping: &AtomicBool,
) -> Result<Value, Box<Outcome>> {
    keeping.store(true, Ordering::Relaxed);
    record(&agents.audit, about(caller, action, &asked)).await?;
    let (name, digest) = (asked.skill.clone(), asked.digest);
    blocking(agents, move |installed| installed.remove(&name, &digest)).await?;
    tracing::info!(
        message_id = paw_log::events::SKILL_CHANGED,
        paw_action = %action,
        skill = %asked.skill,
        "a skill is gone"
    );
    Ok(json!({"change": asked.change, "skill": asked.skill, "digest": asked.digest}))
}

/// Whether a model can be told of all its tools, beside those of the other skills of each agent that has it: else the agent could answer
/// nothing any more.
fn fits(agents: &Agents, skill: &Skill, announced: Option<&Announced>) -> Result<(), Box<Outcome>> {
    let tools = announced.map_or_else(|| skill.tools.clone(), |it| it.tools.clone());
    let skill = Skill {
        tools,
        ..skill.clone()
    };
    let refused = |message: String, hint: &str| {
        Err(Box::new(Outcome::failed("too_many_tools", message, hint)))
    };
    if let Err(error) = Told::of(std::iter::once(&skill)) {
        let message = format!("skill {}: {error}", skill.name);
        return refused(message, "split it into several skills, for several agents");
    }
    let config = Arc::clone(&agents.config.borrow());
    for (agent, settings) in config
        .agents
        .iter()
        .filter(|(_, it)| it.skills.contains(&skill.name))
    {
        let others = usable(&agents.skills, settings);
        let others = others
            .iter()
            .map(AsRef::as_ref)
            .filter(|it| it.name != skill.name);
        if let Err(error) = Told::of(others.chain([&skill])) {
            let message = format!("agent {agent} has skill {}: {error}", skill.name);
            return refused(
                message,
                "take this skill or another one from the agent in pawd.toml",
            );
        }
    }
    Ok(())
}

/// What the program of a skill says that it can do, in a sandbox that reaches nothing.
async fn ask_its_program(
    agents: &Agents,
    skill: &Skill,
    owner: Owner,
) -> Result<Announced, Box<Outcome>> {
    let (floor, proof_is_required, limit) = {
        let config = agents.config.borrow();
        let floor = config
            .agents
            .get(&owner.agent)
            .map_or(config.sandbox.isolation_floor, |settings| {
                settings.isolation_floor
            });
        (
            floor,
            config.sandbox.require_proof,
            config.actions.tool_timeout,
        )
    };
    let chosen = sandbox::choose(
        &agents.launchers,
        &agents.proofs,
        proof_is_required,
        None,
        floor,
    );
    let runtime = chosen.await.map_err(|error| Box::new(not_chosen(&error)))?;
    let id = fresh_id()?;
    let announced = announce(
        agents.pool.cold(),
        skill,
        &owner.agent,
        (runtime, floor),
        (id, owner.uid),
        limit,
    );
    announced
        .await
        .map_err(|error| Box::new(not_called(&error)))
}

/// Looks at the files of a skill; if they are not those that were approved it is disabled, and why is given.
///
/// # Errors
/// When nobody can look.
pub(super) async fn drift(
    agents: &Agents,
    skill: &Arc<Skill>,
    caller: &Caller,
) -> Result<Option<String>, JoinError> {
    let (installed, looked_at) = (Arc::clone(&agents.installed), Arc::clone(skill));
    let fresh = tokio::task::spawn_blocking(move || installed.fresh(&looked_at)).await?;
    let Err(error) = fresh else {
        return Ok(None);
    };
    let why = paw_log::Chain(&error).to_string();
    let message = format!("skill {}: {why}", skill.name);
    let drift = Drift {
        skill: skill.name.clone(),
        digest: skill.digest,
        why,
    };
    disable(&agents.installed, &agents.audit, drift, Some(caller)).await;
    Ok(Some(message))
}

/// Looks at the skills whose instructions a model of this agent is told. One that is not what was approved is disabled, and so nothing of
/// it is told.
pub(super) async fn look(agents: &Agents, settings: &AgentSettings, caller: &Caller) {
    for name in &settings.skills {
        let skill = agents.skills.get(name);
        let Some(skill) = skill.filter(|skill| skill.instructions.is_some()) else {
            continue;
        };
        if let Err(error) = drift(agents, &skill, caller).await {
            tracing::error!(skill = %skill.name, error = %error, "a skill was not looked at");
        }
    }
}

/// A skill is not what was approved: it is disabled, and that is in the log and in the journal. What is already so is not told again.
pub async fn disable(
    installed: &Arc<Installed>,
    audit: &Audit,
    drift: Drift,
    caller: Option<&Caller>,
) {
    let (of, name, why) = (
        Arc::clone(installed),
        drift.skill.clone(),
        drift.why.clone(),
    );
    let digest = drift.digest;
    let disabled =
        tokio::task::spawn_blocking(move || of.disable(&name, Some(&digest), &why)).await;
    match disabled {
        // Another one is installed under this name by now, or it is gone.
        Ok(Err(SkillError::Changed(_) | SkillError::Unknown(_))) | Ok(Ok(false)) => {}
        Ok(Ok(true)) => tell_drift(audit, &drift, caller).await,
        Ok(Err(error)) => {
            tracing::error!(skill = %drift.skill, error = %paw_log::Chain(&error), "a skill that is not what was approved is disabled only until the next start");
            tell_drift(audit, &drift, caller).await;
        }
        Err(error) => tracing::error!(error = %error, "a skill was not disabled"),
    }
}

/// Says that a skill was disabled because it is not what was approved.
pub async fn tell_drift(audit: &Audit, drift: &Drift, caller: Option<&Caller>) {
    tracing::warn!(
        message_id = paw_log::events::SKILL_DRIFTED,
        skill = %drift.skill,
        digest = %drift.digest,
        why = %drift.why,
        "a skill is not what was approved, and is disabled"
    );
    let mut entry = Entry::new(Event::SkillChanged);
    entry.actor = caller.map(actor);
    let detail = &mut entry.detail;
    detail.insert("bundle".into(), drift.digest.to_string());
    detail.insert("change".into(), "drifted".into());
    detail.insert("skill".into(), drift.skill.to_string());
    detail.insert("why".into(), crate::records::shorten_to(&drift.why, 500));
    // It takes a right away, so it stands even if its record is lost with the writer.
    drop(audit.happened(entry).await);
}

fn about(caller: &Caller, action: Uuid, asked: &SkillArguments) -> Entry {
    let mut entry = Entry::new(Event::SkillChanged);
    entry.action = Some(action);
    entry.actor = Some(actor(caller));
    let detail = &mut entry.detail;
    detail.insert("bundle".into(), asked.digest.to_string());
    detail.insert("change".into(), asked.change.as_str().into());
    detail.insert("skill".into(), asked.skill.to_string());
    entry
}

async fn record(audit: &Audit, entry: Entry) -> Result<(), Box<Outcome>> {
    audit.durable(entry).await.map(drop).map_err(|error| {
        let message = error.to_string();
        Box::new(Outcome::failed("unavailable", message, error.remedy()))
    })
}

async fn blocking<T: Send + 'static>(
    agents: &Agents,
    work: impl FnOnce(&Installed) -> Result<T, SkillError> + Send + 'static,
) -> Result<T, Box<Outcome>> {
    let installed = Arc::clone(&agents.installed);
    match tokio::task::spawn_blocking(move || work(&installed)).await {
        Ok(done) => done.map_err(|error| failed(&error)),
        Err(error) => Err(Box::new(Outcome::failed(
            "internal",
            error.to_string(),
            "report it",
        ))),
    }
}

pub(super) fn failed(error: &SkillError) -> Box<Outcome> {
    let message = paw_log::Chain(error).to_string();
    Box::new(Outcome::failed(error.kind(), message, error.remedy()))
}
