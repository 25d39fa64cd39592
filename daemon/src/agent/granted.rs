//! Who may have a secret used through a broker: policy has to permit it, and the secret's own list has to name everybody for whom it is.
//!
//! It is looked at for each use (see [`super::net`]). For the secrets that a skill says its runs need also before anything is made for a call:
//! who calls is told what is missing then, and not by a request of the skill's that fails in the middle.

use std::sync::Arc;

use paw_policy::{Circumstances, Facts, Name, Principal, Rules, SecretUse, TaintSet, may_use};
use paw_store::Caller;
use paw_vault::User;
use uuid::Uuid;

use super::Agents;
use crate::{
    clock::now_ms,
    config::SecretName,
    orchestrator::work::Outcome,
    records::actor,
    sandbox::{Owner, Skill},
    secrets::{Secrets, Use, UseError},
};

/// Who a secret's own list may name for a use by this agent: the skill in whose sandbox that is, or it.
pub(super) fn users(skill: Option<&Name>, agent: &Name) -> Vec<User> {
    let skill = skill.map(|it| User::Skill(it.to_string()));
    let agent = User::Agent(agent.to_string());
    skill.into_iter().chain([agent]).collect()
}

/// What policy is told of a use for this caller, by what has these labels.
pub(super) fn facts(caller: &Caller, taint: &TaintSet) -> Facts {
    Facts {
        principal: Principal {
            uid: caller.uid,
            role: caller.role,
        },
        taint: taint.clone(),
        now_ms: now_ms(),
        circumstances: Circumstances::default(),
    }
}

/// Whether policy permits this use, and the secret's own list each of those for whom the agent was asked. Whether the list names the agent
/// itself is said where the value is.
///
/// # Errors
/// Who does not.
pub(super) fn permitted(
    (secrets, rules): (&Secrets, &Rules),
    secret: &SecretName,
    (asked, facts): (&SecretUse<'_>, &Facts),
    of: &Use<'_>,
) -> Result<(), UseError> {
    let verdict = may_use(rules, asked, facts);
    if !verdict.allowed {
        let through = User::Broker(asked.broker.to_owned());
        return Err(UseError::policy(secret, &through, &verdict.rules));
    }
    asked.through.iter().try_for_each(|asker| {
        let users = &users(asked.skill, asker);
        let of = Use {
            users,
            ..of.clone()
        };
        secrets.may(secret, &of)
    })
}

/// Whether each secret that this skill needs may be used by some broker that it reaches. That one may not be is on record.
///
/// # Errors
/// How the call ends then: `secret_not_granted` where nobody let it, `secret_unavailable` where the vault does not have it.
pub(super) async fn secrets(
    agents: &Agents,
    skill: &Skill,
    (action, caller, owner, through): (Uuid, &Caller, &Owner, &[Name]),
) -> Result<(), Box<Outcome>> {
    let brokers: Vec<&str> = skill.net.iter().filter_map(|rule| rule.broker()).collect();
    let own = users(Some(&skill.name), &owner.agent);
    let facts = facts(caller, &owner.taint);
    for needed in &skill.secrets {
        let name = SecretName {
            name: needed.clone(),
            version: None,
        };
        let mut refused = None;
        for broker in &brokers {
            let broker_user = User::Broker((*broker).to_owned());
            let of = Use {
                through: Some(&broker_user),
                users: &own,
                on_behalf: Some((action, actor(caller))),
                detail: std::collections::BTreeMap::from([(
                    "purpose".into(),
                    "what a skill needs".into(),
                )]),
            };
            let asked = SecretUse {
                secret: needed,
                broker,
                agent: &owner.agent,
                through,
                skill: Some(&skill.name),
            };
            let rules = Arc::clone(&agents.rules.borrow());
            let permitted = permitted((&agents.secrets, &rules), &name, (&asked, &facts), &of);
            match permitted.and_then(|()| agents.secrets.may(&name, &of)) {
                Ok(()) => {
                    refused = None;
                    break;
                }
                Err(error) => {
                    refused.get_or_insert((broker_user, error));
                }
            }
        }
        if let Some((broker, error)) = refused {
            let of = Use {
                through: Some(&broker),
                users: &own,
                on_behalf: Some((action, actor(caller))),
                detail: std::collections::BTreeMap::new(),
            };
            let error = agents.secrets.refused(&name, of, error).await;
            return Err(Box::new(outcome(skill, needed, &error)));
        }
    }
    Ok(())
}

fn outcome(skill: &Skill, secret: &str, error: &UseError) -> Outcome {
    let message = format!("skill {} needs secret {secret}: {error}", skill.name);
    let (kind, hint) = match error {
        UseError::NotAllowed { .. } | UseError::Policy { .. } | UseError::Undeclared { .. } => (
            "secret_not_granted",
            "let the skill, or the agent, and a broker that the skill reaches use it: pawctl secret allow",
        ),
        UseError::Vault { .. } | UseError::NoText(_) | UseError::Unrecorded { .. } => (
            "secret_unavailable",
            "see `pawctl secret list` and `pawctl secret status`",
        ),
    };
    Outcome::failed(kind, message, hint)
}
