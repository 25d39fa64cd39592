//! A secret of the vault on its way to a broker: what policy and the secret's own list say, the record, and then the value, to paw-egress
//! alone and for this one request.

use paw_api::egress::{Decision, Hand, VERSION};
use paw_policy::SecretUse;
use paw_vault::{User, Value};

use super::Keeper;
use crate::{
    agent::granted::{facts, permitted, users},
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
        let own = users(self.skill.as_ref(), &self.agent);
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
        let asked = SecretUse {
            secret: &secret.name,
            broker,
            agent: &self.agent,
            through: &self.through,
            skill: self.skill.as_ref(),
        };
        let facts = facts(&self.caller, &self.taint);
        let rules = std::sync::Arc::clone(&self.rules.borrow());
        let permitted = permitted((&self.secrets, &rules), secret, (&asked, &facts), &of);
        if let Err(error) = permitted {
            return Err(self.secrets.refused(secret, of, error).await);
        }
        self.secrets.locked(secret, of).await
    }
}
