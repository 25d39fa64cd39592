//! `config.*` and `policy.*`

use std::collections::BTreeSet;

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    action::Verdict,
    system::{ConfigRpcServer, DecidingRule, Explanation, PolicyRpcServer, Reloaded, Rule},
};
use paw_policy::{
    ConfigChange, Facts, Kind, Principal, Role, Rules,
    judge::{judge, weigh},
};
use paw_store::ActionRecord;
use serde_json::{Map, Value};

use super::{Family, change::of_config, fail};
use crate::{clock::now_ms, intake::THIS, orchestrator::work::Progress, records, rpc::caller};

#[async_trait]
impl ConfigRpcServer for Family {
    async fn show(&self, _: &Extensions) -> RpcResult<Value> {
        let config = self.config.borrow();
        serde_json::to_value(&**config).map_err(|error| {
            fail(Error::new(
                ErrorKind::Internal,
                error.to_string(),
                "report it",
            ))
        })
    }

    async fn reload(&self, extensions: &Extensions) -> RpcResult<Reloaded> {
        let arguments = of_config(ConfigChange::ConfigReload.as_str(), THIS, Map::new());
        let asked = (arguments, Progress::None);
        let done = self.changed(extensions, Kind::ConfigChange, asked, THIS);
        serde_json::from_value(done.await?).map_err(|error| {
            fail(Error::new(
                ErrorKind::Internal,
                error.to_string(),
                "report it",
            ))
        })
    }
}

#[async_trait]
impl PolicyRpcServer for Family {
    async fn show(&self, extensions: &Extensions) -> RpcResult<Vec<Rule>> {
        let caller = caller(extensions).map_err(fail)?;
        // What others were granted is between them and the approvers.
        let hidden = self
            .grants
            .list(0)
            .into_iter()
            .filter(|grant| caller.role < Role::Approver && grant.uid != caller.uid);
        let hidden: BTreeSet<String> = hidden.map(|grant| format!("grant-{}", grant.id)).collect();
        let rules = self.rules.borrow();
        Ok(rules
            .iter()
            .filter(|(id, _)| !hidden.contains(*id))
            .map(|(id, text)| Rule {
                id: id.to_owned(),
                text: text.to_owned(),
            })
            .collect())
    }

    async fn explain(&self, extensions: &Extensions, id: String) -> RpcResult<Explanation> {
        let caller = caller(extensions).map_err(fail)?;
        let record = self.action(&id, &caller).map_err(fail)?;
        explain(&record, &self.rules.borrow()).map_err(fail)
    }

    async fn reload(&self, extensions: &Extensions) -> RpcResult<Reloaded> {
        let caller = caller(extensions).map_err(fail)?;
        self.reload.policy(caller).await.map_err(fail)
    }
}

/// Why policy said what it said to an action, by what is stored of it and the rules in force.
fn explain(record: &ActionRecord, rules: &Rules) -> Result<Explanation, Error> {
    let facts = |now_ms| Facts {
        principal: Principal {
            uid: record.requested_by.uid,
            role: record.requested_by.role,
        },
        taint: record.taint.clone(),
        circumstances: record.circumstances.clone(),
        now_ms,
    };
    let now = judge(rules, &record.plan, &facts(now_ms()))
        .map_err(|error| Error::new(ErrorKind::Internal, error.to_string(), "report it"))?;
    let told = |id: &String| {
        let rule = rules.rule(id);
        let effect = |permits| if permits { "permit" } else { "forbid" };
        DecidingRule {
            id: id.clone(),
            effect: rule.as_ref().map(|rule| effect(rule.permits).into()),
            reason: rule
                .as_ref()
                .and_then(|rule| rule.reason.map(str::to_owned)),
            place: rule
                .as_ref()
                .map(|rule| format!("{}:{}", rule.file, rule.line)),
            text: rule.map(|rule| rule.text.to_owned()),
        }
    };
    Ok(Explanation {
        id: record.id.to_string(),
        summary: records::summary(&record.plan),
        decision: record.decision,
        risk: record.risk,
        risk_because: weigh(&record.plan, &record.taint).1.into(),
        principal: records::caller(&record.requested_by),
        facts: paw_policy::facts::shown(&record.plan, &facts(record.created_ms), record.risk),
        rules: record.rules.iter().map(told).collect(),
        now: Verdict {
            decision: now.decision,
            rules: now.rules,
        },
    })
}
