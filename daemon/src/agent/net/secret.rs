//! A secret of the vault on its way to a broker: what policy and the secret's own list say, the record, and then the value, to paw-egress
//! alone and for this one request.

use paw_api::egress::{Decision, Hand, VERSION};
use paw_policy::{Circumstances, Facts, Name, Principal, SecretUse, may_use};
use paw_vault::{User, Value};

use super::Keeper;
use crate::{
    clock::now_ms,
    config::SecretName,
    records::actor,
    sandbox::hand,
    secrets::{Use, UseError},
};

/// What became of the value that a decision waits for.
pub(super) enum Handed {
    /// paw-egress has it, and its record is on the disk.
    Over,
    /// It may not be had, or is not there; that is on record.
    Refused,
}

impl Keeper {
    /// Gives the value that this decision waits for to paw-egress, if it may be had.
    pub(super) async fn hand_over(&self, decision: &Decision) -> Handed {
        let (Some(secret), Some(broker)) = (&decision.secret, &decision.broker) else {
            tracing::warn!(paw_sandbox = %self.sandbox, "paw-egress asks for a secret and says not which, or for which broker");
            return Handed::Refused;
        };
        let Ok(name) = secret.parse::<SecretName>() else {
            tracing::warn!(paw_sandbox = %self.sandbox, "paw-egress asks for what is no secret");
            return Handed::Refused;
        };
        let value = match self.value(&name, broker, decision).await {
            Ok(value) => value,
            Err(error) => {
                tracing::warn!(paw_sandbox = %self.sandbox, broker, error = %error, "a broker has no secret");
                return Handed::Refused;
            }
        };
        let Ok(length) = u32::try_from(value.bytes().len()) else {
            return Handed::Refused;
        };
        let to = Hand {
            version: VERSION,
            run: self.sandbox.to_string(),
            seq: decision.seq,
            length,
        };
        match hand(&self.egress, &to, value.bytes()).await {
            Ok(()) => Handed::Over,
            Err(error) => {
                tracing::warn!(paw_sandbox = %self.sandbox, broker, error = %paw_log::Chain(&error), "a secret did not reach paw-egress");
                Handed::Refused
            }
        }
    }

    async fn value(
        &self,
        secret: &SecretName,
        broker: &str,
        decision: &Decision,
    ) -> Result<Value, UseError> {
        let through = User::Broker(broker.to_owned());
        let users = |agent: &Name| -> Vec<User> {
            let skill = self.skill.as_ref().map(|it| User::Skill(it.to_string()));
            let agent = User::Agent(agent.to_string());
            skill.into_iter().chain([agent]).collect()
        };
        let own = users(&self.agent);
        let of = Use {
            through: Some(&through),
            users: &own,
            on_behalf: Some((self.action, actor(&self.caller))),
            detail: self.about_decision(decision),
        };
        // What a person approved when the skill was installed.
        if let Some(skill) = self
            .skill
            .as_ref()
            .filter(|_| !self.declared.contains(&secret.name))
        {
            let error = UseError::Undeclared {
                secret: secret.name.clone(),
                skill: skill.to_string(),
            };
            return Err(self.secrets.refused(secret, of, error).await);
        }
        let facts = Facts {
            principal: Principal {
                uid: self.caller.uid,
                role: self.caller.role,
            },
            taint: self.taint.clone(),
            circumstances: Circumstances::default(),
            now_ms: now_ms(),
        };
        let asked = SecretUse {
            secret: &secret.name,
            broker,
            agent: &self.agent,
            through: &self.through,
            skill: self.skill.as_ref(),
        };
        let rules = std::sync::Arc::clone(&self.rules.borrow());
        let verdict = may_use(&rules, &asked, &facts);
        if !verdict.allowed {
            let error = UseError::policy(secret, &through, &verdict.rules);
            return Err(self.secrets.refused(secret, of, error).await);
        }
        // Its own list names who may; whoever had it asked is no less bound by that.
        for asker in &self.through {
            let users = users(asker);
            let of = Use {
                users: &users,
                ..of.clone()
            };
            if let Err(error) = self.secrets.may(secret, &of) {
                return Err(self.secrets.refused(secret, of, error).await);
            }
        }
        self.secrets.locked(secret, of).await
    }
}
