//! The exact thing that will be done, in one canonical form with one digest.
//!
//! A plan is made once, when an action is accepted, and stored. Policy judges it, a person is shown it, and execution takes
//! it from the store: nothing that comes later can change what was approved.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::changes::{
    ConfigArguments, FileArguments, FileChange, SecretArguments, SwitchArguments,
};
use crate::words::{Digest, Kind, Name, ToolClass};

/// Domain of a plan's digest, so that no other document can have the same one.
const DOMAIN: &[u8] = b"pawd-plan/1\0";

/// The longest canonical form of a plan, in bytes.
pub const MAX_PLAN: usize = 256 * 1024;

/// How deep arrays and objects may be nested in a plan. Whoever stores, shows or sends it has room for as much again around it.
pub const MAX_DEPTH: usize = 64;

/// What will be done, completely.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// On whose behalf.
    pub agent: Name,
    /// In which conversation, if in one.
    pub session: Option<String>,
    /// What.
    pub operation: Operation,
}

/// The typed arguments of each kind that this version can execute. A kind without a variant here is denied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// One turn of a conversation.
    Chat(ChatArguments),
    /// One tool of one skill.
    ToolCall(ToolArguments),
    /// One command in a sandbox of its own, asked for by a person of this host.
    SandboxRun(Map<String, Value>),
    /// One more thing that a sandbox which runs may reach; it asked for it and was refused.
    ApiCall(ApiArguments),
    /// A skill is installed, enabled again, or removed.
    SkillChange(SkillArguments),
    /// Somebody else answers from now on.
    ModelSwitch(SwitchArguments),
    /// What is registered changes: a provider, a budget or an agent.
    ConfigChange(ConfigArguments),
    /// What the vault keeps changes, or who may use it: a change of what is configured, whose value travels beside the plan.
    SecretChange(SecretArguments),
    /// What a run wrote to a workspace becomes part of it, is thrown away, or is taken back.
    FileOperation(FileArguments),
}

impl Operation {
    /// The call, where it is one of a tool of a skill.
    #[must_use]
    pub const fn tool(&self) -> Option<&ToolArguments> {
        match self {
            Self::ToolCall(call) => Some(call),
            Self::Chat(_)
            | Self::SandboxRun(_)
            | Self::ApiCall(_)
            | Self::SkillChange(_)
            | Self::ModelSwitch(_)
            | Self::ConfigChange(_)
            | Self::SecretChange(_)
            | Self::FileOperation(_) => None,
        }
    }
}

/// Arguments of [`Operation::SkillChange`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkillArguments {
    /// What is done.
    pub change: SkillChange,
    /// With which skill.
    pub skill: Name,
    /// Its version, as text for people.
    pub version: String,
    /// Digest of all its files, their names and which of them can be executed: of what is installed or enabled, or of what goes.
    pub digest: Digest,
    /// Digest of what is installed under this name when this is decided. If it is another one by then, nothing is done.
    pub replaces: Option<Digest>,
    /// What the skill may do once this is done; empty where it is removed.
    pub rights: Map<String, Value>,
    /// How that differs from what is installed, one line for each right: `+` for what it gets, `-` for what it loses.
    pub difference: Vec<String>,
    /// Digest of the tools that its program announced, where they are what is approved. If it announces others by then, it is not enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<Digest>,
}

/// What is done with a skill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkillChange {
    /// A bundle that was sent becomes the skill of its name.
    Install,
    /// What is installed may be used again, as it is now.
    Enable,
    /// It is gone, with its files.
    Remove,
}

impl SkillChange {
    /// The word that stands for this change on every wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Enable => "enable",
            Self::Remove => "remove",
        }
    }
}

/// Arguments of [`Operation::ApiCall`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiArguments {
    /// Which sandbox.
    pub sandbox: String,
    /// The action that the sandbox belongs to.
    pub run: String,
    /// The rule that would be added, `HOST:PORT` or `HOST:PORT,method=GET`.
    pub rule: String,
}

/// Arguments of [`Operation::Chat`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatArguments {
    /// What was said.
    pub text: String,
    /// Which provider answers.
    pub provider: Name,
    /// With which model.
    pub model: String,
    /// The route that chose them, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Name>,
    /// Who is asked, in this order, while those before have no answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<Target>,
    /// Whether only a provider on this host may answer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub local_only: bool,
    /// Where each of these providers was when this was decided. One that has moved since is another one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub places: BTreeMap<Name, String>,
    /// JSON schema of the answer; free text without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// Pictures that go with the text, in base64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
}

/// Who may answer a chat.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Which provider.
    pub provider: Name,
    /// With which model.
    pub model: String,
}

impl ChatArguments {
    /// Everybody who may answer, in the order in which they are asked.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        let first = Target {
            provider: self.provider.clone(),
            model: self.model.clone(),
        };
        std::iter::once(first)
            .chain(self.fallbacks.iter().cloned())
            .collect()
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Arguments of [`Operation::ToolCall`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolArguments {
    /// Which skill.
    pub skill: Name,
    /// Digest of that skill's files, so that a changed skill is another plan.
    pub skill_digest: Digest,
    /// Which of its tools.
    pub tool: String,
    /// What that tool can do, as its manifest says.
    pub class: ToolClass,
    /// What is passed to it.
    pub arguments: Map<String, Value>,
    /// What it may reach beside what its skill names, because an argument does: a rule, `HOST:PORT` and what narrows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<String>,
}

/// Why something cannot be a plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It is longer than [`MAX_PLAN`].
    #[error("the plan has {0} bytes; at most {MAX_PLAN} are allowed")]
    TooLong(usize),
    /// It is nested deeper than [`MAX_DEPTH`].
    #[error("the plan is nested deeper than {MAX_DEPTH} arrays and objects")]
    TooDeep,
    /// It cannot be written as JSON.
    #[error("write the plan as JSON")]
    Json(#[from] serde_json::Error),
}

impl Operation {
    /// What it can do, by the classes of tools; a chat has no effect of its own (rule R3).
    #[must_use]
    pub const fn class(&self) -> Option<ToolClass> {
        match self {
            Self::Chat(_) => None,
            Self::ToolCall(call) => Some(call.class),
            Self::SandboxRun(_) => Some(ToolClass::Exec),
            Self::ApiCall(_) => Some(ToolClass::Egress),
            Self::SkillChange(_)
            | Self::ModelSwitch(_)
            | Self::ConfigChange(_)
            | Self::SecretChange(_) => Some(ToolClass::Admin),
            Self::FileOperation(files) => Some(match files.change {
                FileChange::Commit => ToolClass::WriteLocalReversible,
                FileChange::Discard | FileChange::Undo => ToolClass::WriteDestructive,
            }),
        }
    }
}

impl Plan {
    /// Which kind of action this is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match &self.operation {
            Operation::Chat(_) => Kind::Chat,
            Operation::ToolCall(_) | Operation::SandboxRun(_) => Kind::ToolCall,
            Operation::ApiCall(_) => Kind::ApiCall,
            Operation::SkillChange(_) => Kind::SkillChange,
            Operation::ModelSwitch(_) => Kind::ModelSwitch,
            Operation::ConfigChange(_) | Operation::SecretChange(_) => Kind::ConfigChange,
            Operation::FileOperation(_) => Kind::FileOperation,
        }
    }

    /// The canonical form: JSON without white space, members sorted by name.
    ///
    /// # Errors
    /// When it is longer than [`MAX_PLAN`] or nested deeper than [`MAX_DEPTH`].
    pub fn canonical(&self) -> Result<String, PlanError> {
        let text = canonical(&serde_json::to_value(self)?);
        if text.len() > MAX_PLAN {
            Err(PlanError::TooLong(text.len()))
        } else if is_deeper_than(MAX_DEPTH, text.as_bytes()) {
            Err(PlanError::TooDeep)
        } else {
            Ok(text)
        }
    }

    /// The digest of the canonical form; what an approval is bound to.
    ///
    /// # Errors
    /// As [`Plan::canonical`].
    pub fn digest(&self) -> Result<Digest, PlanError> {
        let mut bytes = DOMAIN.to_vec();
        bytes.extend_from_slice(self.canonical()?.as_bytes());
        Ok(Digest::of(&bytes))
    }
}

/// Whether arrays and objects are nested deeper than `limit` in this JSON. Reads each byte once and does not recurse; what is not JSON is
/// left to the parser, which then sees no more nesting than this allows.
#[must_use]
pub fn is_deeper_than(limit: usize, text: &[u8]) -> bool {
    let (mut depth, mut bytes) = (0_usize, text.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => loop {
                match bytes.next() {
                    Some(b'\\') => drop(bytes.next()),
                    Some(b'"') | None => break,
                    Some(_) => {}
                }
            },
            _ => {}
        }
    }
    false
}

/// JSON without white space and with the members of each object sorted by name, whatever order the map keeps.
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&value.to_string())
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            out.push('{');
            for (index, (name, item)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write(item, out);
            }
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &str) -> Plan {
        Plan {
            agent: "default".parse().unwrap(),
            session: None,
            operation: Operation::ToolCall(ToolArguments {
                skill: "files".parse().unwrap(),
                skill_digest: Digest::of(b"files"),
                tool: "write".into(),
                class: ToolClass::WriteDestructive,
                arguments: serde_json::from_str(arguments).unwrap(),
                net: None,
            }),
        }
    }

    #[test]
    fn order_of_members_does_not_change_the_digest() {
        let one = plan(r#"{"path":"a","text":"b","more":{"y":1,"x":[{"q":1,"p":2}]}}"#);
        let two = plan(r#"{"more":{"x":[{"p":2,"q":1}],"y":1},"text":"b","path":"a"}"#);
        assert_eq!(one.canonical().unwrap(), two.canonical().unwrap());
        assert_eq!(one.digest().unwrap(), two.digest().unwrap());
    }

    #[test]
    fn every_changed_byte_changes_the_digest() {
        let base = plan(r#"{"path":"a","text":"b"}"#).digest().unwrap();
        for other in [
            r#"{"path":"b","text":"b"}"#,
            r#"{"path":"a","text":"B"}"#,
            r#"{"path":"a"}"#,
            r#"{"path":"a","text":"b","x":null}"#,
        ] {
            assert_ne!(base, plan(other).digest().unwrap(), "{other}");
        }
    }

    #[test]
    fn a_stored_plan_reads_back_as_the_same_plan() {
        let plan = plan(r#"{"path":"a\u0000\n","n":1.5}"#);
        let text = plan.canonical().unwrap();
        let back: Plan = serde_json::from_str(&text).unwrap();
        assert_eq!(plan, back);
        assert_eq!(text, back.canonical().unwrap());
    }

    /// What was stored before there were routes has the digest that it had, so what waits for a person can still be answered.
    #[test]
    fn plan_without_a_route_says_nothing_of_routes() {
        let text = r#"{"agent":"default","operation":{"chat":{"model":"m","provider":"local","text":"hi"}},"session":null}"#;
        let plan: Plan = serde_json::from_str(text).unwrap();
        assert_eq!(plan.canonical().unwrap(), text);
    }

    fn check_depth(text: &str, expected: bool) {
        assert_eq!(is_deeper_than(2, text.as_bytes()), expected, "{text}");
    }

    #[test]
    fn nesting_is_counted_outside_of_strings() {
        check_depth("[[1],[2],{}]", false);
        check_depth("[[[", true);
        check_depth(r#"{"a":{"b":[]}}"#, true);
        check_depth(r#"{"a":"[[[[{{{"}"#, false);
        check_depth(r#"{"a\"":"\\","b":[{}]}"#, true);
        check_depth("]]]]]][[", false);
        check_depth(r#""unfinished [[["#, false);
    }

    #[test]
    fn a_plan_that_is_nested_too_deep_is_refused() {
        let nested = |depth: usize| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            plan(&format!(r#"{{"text":{open}{close}}}"#)).digest()
        };
        assert!(nested(MAX_DEPTH - 8).is_ok());
        assert!(matches!(nested(MAX_DEPTH), Err(PlanError::TooDeep)));
    }

    #[test]
    fn a_plan_beyond_the_bound_is_refused() {
        let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(MAX_PLAN));
        assert!(matches!(plan(&long).digest(), Err(PlanError::TooLong(_))));
    }
}
