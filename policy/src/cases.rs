//! What a policy is expected to say: cases for `pawctl policy test`, judged by the same code as everything else.
//!
//! A case says what pawd would know by itself: who asks, the typed arguments, where the data came from, what time it is. So it shows
//! what rules do; it does not show what pawd would know of a caller.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    changes::{ConfigArguments, FileArguments, SecretArguments, SwitchArguments},
    circumstances::Circumstances,
    judge::{Factors, Facts, Principal, Yes, judge, may_approve, weigh},
    plan::{ApiArguments, ChatArguments, Operation, Plan, SkillArguments, ToolArguments},
    rules::Rules,
    words::{Decision, Kind, Name, Risk, Role, TaintSet},
};

/// A file of cases.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cases {
    /// They, in the order in which they are tried.
    #[serde(rename = "case")]
    pub cases: Vec<Case>,
}

/// One case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows, for people.
    pub name: String,
    /// Who asks.
    pub principal: Who,
    /// What is asked: a kind of action, `sandbox_run`, or `approve`.
    pub kind: String,
    /// On whose behalf; `default` if not given.
    pub agent: Option<Name>,
    /// Its typed arguments, as `pawctl action show` has them in the plan.
    #[serde(default)]
    pub arguments: Map<String, Value>,
    /// Where the data came from.
    #[serde(default)]
    pub taint: TaintSet,
    /// How it came to be asked; if not given, at a terminal, by nobody but who asks.
    #[serde(default)]
    pub circumstances: Circumstances,
    /// When, in milliseconds since 1970; if not given, the first of January 1970.
    #[serde(default)]
    pub now_ms: u64,
    /// What policy shall say.
    pub expect: Expected,
}

/// Who asks.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Who {
    /// User id.
    pub uid: u32,
    /// The highest role.
    pub role: Role,
}

/// What policy shall say; what is not given may be anything.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// The answer. Of `approve`, `ask` says that it takes a second one.
    pub decision: Decision,
    /// How risky.
    pub risk: Option<Risk>,
    /// The rules that decide, in any order.
    pub rules: Option<Vec<String>>,
}

/// What policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The answer.
    pub decision: Decision,
    /// How risky.
    pub risk: Risk,
    /// The rules that decided, sorted.
    pub rules: Vec<String>,
}

/// Arguments of the case `approve`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answered {
    risk: Risk,
    /// Who asked for the action.
    asked_by: Who,
    #[serde(default)]
    code: bool,
    #[serde(default)]
    seconded: bool,
}

impl From<Who> for Principal {
    fn from(who: Who) -> Self {
        Self {
            uid: who.uid,
            role: who.role,
        }
    }
}

impl Case {
    /// What these rules say to it.
    ///
    /// # Errors
    /// When its arguments are not those of its kind.
    pub fn judge(&self, rules: &Rules) -> Result<Said, String> {
        if self.kind == "approve" {
            return self.approve(rules);
        }
        let Some(operation) = self.operation()? else {
            // As at pawd's door: what it does not know, or cannot execute, is refused before any rule.
            return Ok(Said {
                decision: Decision::Deny,
                risk: Risk::Critical,
                rules: Vec::new(),
            });
        };
        let agent = match &self.agent {
            Some(agent) => agent.clone(),
            None => "default".parse().map_err(|_| "no agent".to_owned())?,
        };
        let plan = Plan {
            agent,
            session: None,
            operation,
        };
        let facts = Facts {
            principal: self.principal.into(),
            taint: self.taint.clone(),
            circumstances: self.circumstances.clone(),
            now_ms: self.now_ms,
        };
        let verdict = judge(rules, &plan, &facts).map_err(|error| error.to_string())?;
        debug_assert_eq!(verdict.risk, weigh(&plan, &self.taint).0);
        Ok(Said {
            decision: verdict.decision,
            risk: verdict.risk,
            rules: verdict.rules,
        })
    }

    /// What is wrong with what was said; nothing if it is as expected.
    #[must_use]
    pub fn differs(&self, said: &Said) -> Option<String> {
        let mut wrong = Vec::new();
        if said.decision != self.expect.decision {
            wrong.push(format!(
                "{} instead of {}",
                said.decision, self.expect.decision
            ));
        }
        if let Some(risk) = self.expect.risk.filter(|risk| *risk != said.risk) {
            wrong.push(format!("risk {} instead of {risk}", said.risk));
        }
        if let Some(rules) = &self.expect.rules {
            let mut rules = rules.clone();
            rules.sort();
            if rules != said.rules {
                wrong.push(format!(
                    "decided by [{}] instead of [{}]",
                    said.rules.join(", "),
                    rules.join(", ")
                ));
            }
        }
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }

    fn operation(&self) -> Result<Option<Operation>, String> {
        if self.kind == "sandbox_run" {
            return Ok(Some(Operation::SandboxRun(self.arguments.clone())));
        }
        let Ok(kind) = self.kind.parse::<Kind>() else {
            return Ok(None);
        };
        Ok(match kind {
            Kind::Chat => Some(Operation::Chat(self.read::<ChatArguments>()?)),
            Kind::ToolCall => Some(Operation::ToolCall(self.read::<ToolArguments>()?)),
            Kind::ApiCall => Some(Operation::ApiCall(self.read::<ApiArguments>()?)),
            Kind::ModelSwitch => Some(Operation::ModelSwitch(self.read::<SwitchArguments>()?)),
            Kind::ConfigChange if self.is_of_a_secret() => {
                Some(Operation::SecretChange(self.read::<SecretArguments>()?))
            }
            Kind::ConfigChange => Some(Operation::ConfigChange(self.read::<ConfigArguments>()?)),
            Kind::FileOperation => Some(Operation::FileOperation(self.read::<FileArguments>()?)),
            Kind::SecretUse => None,
            Kind::SkillChange => Some(Operation::SkillChange(self.read::<SkillArguments>()?)),
        })
    }

    /// Both are of one kind, and told apart by what is done.
    fn is_of_a_secret(&self) -> bool {
        let change = self.arguments.get("change").and_then(Value::as_str);
        change.is_some_and(|change| change.starts_with("secret."))
    }

    fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_value(Value::Object(self.arguments.clone()))
            .map_err(|error| format!("arguments of {}: {error}", self.kind))
    }

    fn approve(&self, rules: &Rules) -> Result<Said, String> {
        let answered: Answered = self.read()?;
        let factors = Factors {
            code: answered.code,
            seconded: answered.seconded,
        };
        let (asker, approver) = (answered.asked_by.into(), self.principal.into());
        let decision = match may_approve(rules, answered.risk, &asker, &approver, factors) {
            Ok(Yes::Decides) => Decision::Allow,
            Ok(Yes::OneOfTwo) => Decision::Ask,
            Err(_) => Decision::Deny,
        };
        Ok(Said {
            decision,
            risk: answered.risk,
            rules: Vec::new(),
        })
    }
}
