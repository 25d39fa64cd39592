//! Secrets that a skill says its runs need: whether this call may have them is looked at before anything is made for it.
//!
//! It is the same that is looked at again for each use (see [`super::net`]), by the same two: policy, and the secret's own list. Who calls is
//! told what is missing then, and not by a request of the skill's that fails in the middle.

use std::sync::Arc;

use paw_policy::{Circumstances, Facts, Name, Principal, SecretUse, may_use};
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
    secrets::{Use, UseError},
};

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
    let users = |agent: &Name| {
        [
            User::Skill(skill.name.to_string()),
            User::Agent(agent.to_string()),
        ]
    };
    let own = users(&owner.agent);
    let facts = Facts {
        principal: Principal {
            uid: caller.uid,
            role: caller.role,
        },
        taint: owner.taint.clone(),
        now_ms: now_ms(),
        circumstances: Circumstances::default(),
    };
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
            let verdict = may_use(&rules, &asked, &facts);
            let judged = if verdict.allowed {
                // Each of those who had it asked is bound by the secret's list as well.
                let askers = through.iter().try_for_each(|asker| {
                    let users = &users(asker);
                    agents.secrets.may(
                        &name,
                        &Use {
                            users,
                            ..of.clone()
                        },
                    )
                });
                askers.and_then(|()| agents.secrets.may(&name, &of))
            } else {
                Err(UseError::policy(&name, &broker_user, &verdict.rules))
            };
            match judged {
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
