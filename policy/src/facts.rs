//! What a rule can ask about a plan: the context of each question to Cedar, in one form for Cedar and for people.
//!
//! Everything here is read from the plan and from what pawd knows by itself. A path is a fact only in its one canonical form: what
//! has none is no path that a rule could allow, and [`crate::judge::weigh`] makes it critical.

use std::collections::BTreeMap;

use cedar_policy::RestrictedExpression as Expr;
use serde_json::{Map, Value};

use crate::{
    circumstances::{Circumstances, Via},
    judge::Facts,
    plan::{Operation, Plan, ToolArguments, canonical},
    question::{Type, uid},
    words::{Digest, Risk, Taint, ToolClass},
};

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// The longest path that is one, in bytes.
const MAX_PATH: usize = 1024;

/// The longest shape of arguments that is told; of what is longer, its digest.
const MAX_SHAPE: usize = 1024;

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fact {
    /// A word or text.
    Text(String),
    /// Yes or no.
    Truth(bool),
    /// A number.
    Number(i64),
    /// Several texts, in a fixed order.
    Texts(Vec<String>),
    /// Something that the schema has a type for.
    Entity(Type, String),
}

impl Fact {
    /// As Cedar wants it.
    pub(crate) fn to_expr(&self) -> Expr {
        match self {
            Self::Text(text) => Expr::new_string(text.clone()),
            Self::Truth(truth) => Expr::new_bool(*truth),
            Self::Number(number) => Expr::new_long(*number),
            Self::Texts(texts) => Expr::new_set(texts.iter().cloned().map(Expr::new_string)),
            Self::Entity(kind, id) => Expr::new_entity_uid(uid(*kind, id)),
        }
    }

    fn into_json(self) -> Value {
        match self {
            Self::Text(text) | Self::Entity(_, text) => text.into(),
            Self::Truth(truth) => truth.into(),
            Self::Number(number) => number.into(),
            Self::Texts(texts) => texts.into(),
        }
    }
}

/// For people: what rules were told of a plan.
#[must_use]
pub fn shown(plan: &Plan, facts: &Facts, risk: Risk) -> BTreeMap<String, Value> {
    about(plan, facts, risk)
        .into_iter()
        .map(|(name, fact)| (name.to_owned(), fact.into_json()))
        .collect()
}

/// What a plan touches, in words for people; each is as the plan says it.
#[must_use]
pub fn touches(plan: &Plan) -> Vec<String> {
    match &plan.operation {
        Operation::Chat(chat) => {
            let targets = chat.targets();
            let each = targets.iter();
            each.map(|target| format!("model {}/{}", target.provider, target.model))
                .collect()
        }
        Operation::ToolCall(call) => {
            let path = match path(call) {
                Path::Inside(path) => Some(format!("{path} in the workspace of {}", plan.agent)),
                Path::Unreadable => Some("a path that is none beneath the workspace".to_owned()),
                Path::None => None,
            };
            let host = call.net.as_ref().map(|rule| format!("host {rule}"));
            let known: Vec<String> = path.into_iter().chain(host).collect();
            if known.is_empty() {
                vec![format!(
                    "whatever tool {}/{} touches",
                    call.skill, call.tool
                )]
            } else {
                known
            }
        }
        Operation::SandboxRun(spec) => {
            let hosts = texts(spec, "net");
            let hosts = hosts.into_iter().map(|host| format!("host {host}"));
            std::iter::once("a sandbox".to_owned())
                .chain(hosts)
                .collect()
        }
        Operation::ApiCall(call) => vec![format!("host {}", call.rule)],
        Operation::SkillChange(change) => vec![format!("skill {}", change.skill)],
        Operation::ModelSwitch(switch) => {
            let whose = match &switch.agent {
                Some(agent) => format!("agent {agent}"),
                None => format!("whoever asks provider {}", switch.to.provider),
            };
            let model = format!("model {}/{}", switch.to.provider, switch.to.model);
            vec![whose, model, format!("host {}", switch.place)]
        }
        Operation::ConfigChange(change) => {
            vec![format!(
                "{} {}",
                change.change.subject().as_str(),
                change.about()
            )]
        }
        Operation::SecretChange(change) => vec![format!("secret {}", change.secret)],
        Operation::FileOperation(files) => {
            let each = files.difference.iter();
            let each = each.map(|line| format!("{line} in the workspace of {}", files.workspace));
            each.collect()
        }
    }
}

/// What rules are told of a plan, but for what a person said to it.
pub(crate) fn about(plan: &Plan, facts: &Facts, risk: Risk) -> Vec<(&'static str, Fact)> {
    let mut all = common(facts);
    all.push(("risk", Fact::Text(risk.as_str().to_owned())));
    all.push(("agent", Fact::Text(plan.agent.to_string())));
    let how = &facts.circumstances;
    all.extend(way(how));
    match &plan.operation {
        Operation::Chat(chat) => {
            let targets = chat.targets();
            let models = targets
                .iter()
                .map(|target| format!("{}/{}", target.provider, target.model));
            all.push(("models", Fact::Texts(models.collect())));
            all.push(("leaves_host", Fact::Truth(how.leaves_host)));
            // What nobody knows may be any amount.
            let cost = how.cost_micros.unwrap_or(u64::MAX);
            all.push(("cost", Fact::Number(number(cost))));
        }
        Operation::ToolCall(call) => {
            all.push(("skill_digest", Fact::Text(call.skill_digest.to_string())));
            all.push(("leaves_host", Fact::Truth(leaves_host(call))));
            // Signs of an attack in what was read, or asked for, make it worth nothing (rule R7).
            let named = how.named && !facts.taint.has(Taint::Suspicious);
            all.push(("named", Fact::Truth(named)));
            if let Path::Inside(path) = path(call) {
                all.push(("path", Fact::Text(path)));
            }
            if let Some(rule) = &call.net {
                all.push(("host", Fact::Text(place(rule).to_owned())));
                all.push(("methods", Fact::Texts(methods(rule))));
            }
        }
        Operation::SandboxRun(spec) => {
            let hosts = texts(spec, "net");
            all.push(("leaves_host", Fact::Truth(!hosts.is_empty())));
            all.push(("hosts", Fact::Texts(hosts)));
        }
        Operation::ApiCall(_) => all.push(("leaves_host", Fact::Truth(true))),
        Operation::SkillChange(change) => {
            all.push(("change", Fact::Text(change.change.as_str().to_owned())));
            all.push(("skill_digest", Fact::Text(change.digest.to_string())));
        }
        Operation::ModelSwitch(switch) => {
            all.push(("back", Fact::Truth(switch.back)));
            all.push(("leaves_host", Fact::Truth(how.leaves_host)));
            if let Some(agent) = &switch.agent {
                all.push(("whose", Fact::Entity(Type::Agent, agent.to_string())));
            }
        }
        Operation::ConfigChange(change) => {
            all.push(("change", Fact::Text(change.change.as_str().to_owned())));
        }
        Operation::SecretChange(change) => {
            all.push(("change", Fact::Text(change.change.as_str().to_owned())));
            if let Some(user) = &change.user {
                all.push(("user", Fact::Text(user.clone())));
            }
        }
        Operation::FileOperation(files) => {
            let own = files.owner == Some(facts.principal.uid);
            all.push(("change", Fact::Text(files.change.as_str().to_owned())));
            all.push(("own", Fact::Truth(own)));
        }
    }
    all
}

/// What every question has: where the data came from, and what time it is.
pub(crate) fn common(facts: &Facts) -> Vec<(&'static str, Fact)> {
    let taint = facts.taint.iter().map(|taint| taint.as_str().to_owned());
    let (hour, weekday) = clock(facts.now_ms);
    vec![
        ("untrusted", Fact::Truth(facts.taint.is_untrusted())),
        ("taint", Fact::Texts(taint.collect())),
        ("now", Fact::Number(number(facts.now_ms))),
        ("hour", Fact::Number(hour)),
        ("weekday", Fact::Number(weekday)),
    ]
}

/// The way in, and the agents that asked.
fn way(how: &Circumstances) -> Vec<(&'static str, Fact)> {
    let through: Vec<String> = how.through.iter().map(ToString::to_string).collect();
    let mut all = vec![
        ("via", Fact::Text(how.via.as_str().to_owned())),
        ("way", Fact::Text(asked_in_turn(how))),
        ("through", Fact::Texts(through)),
    ];
    match &how.via {
        Via::Terminal | Via::Mcp => {}
        Via::Job(id) => all.push(("job", Fact::Entity(Type::Job, id.clone()))),
        Via::Channel(peer) => {
            all.push(("identity", Fact::Entity(Type::Identity, peer.to_string())));
        }
    }
    all
}

/// The agents that asked, the one that the person asked first: a set of them has no order, and no name has a slash.
pub(crate) fn asked_in_turn(how: &Circumstances) -> String {
    let names: Vec<&str> = how.through.iter().map(crate::words::Name::as_str).collect();
    names.join("/")
}

/// Whether a call sends something off this host: its class says so, or an argument names where to. No other one has a way out.
fn leaves_host(call: &ToolArguments) -> bool {
    let sends = match call.class {
        ToolClass::Egress | ToolClass::Money => true,
        ToolClass::ReadPublic
        | ToolClass::ReadPrivate
        | ToolClass::WriteLocalReversible
        | ToolClass::WriteDestructive
        | ToolClass::Exec
        | ToolClass::Admin => false,
    };
    sends || call.net.is_some()
}

/// What a grant compares: the names and types of arguments, or all that they say.
pub(crate) fn fingerprint(plan: &Plan) -> Vec<(&'static str, Fact)> {
    match &plan.operation {
        Operation::ToolCall(call) => vec![
            ("shape", Fact::Text(shape(&call.arguments))),
            ("arguments", Fact::Text(digest(&call.arguments))),
        ],
        Operation::SandboxRun(spec) => vec![("arguments", Fact::Text(digest(spec)))],
        Operation::Chat(_)
        | Operation::ApiCall(_)
        | Operation::SkillChange(_)
        | Operation::ModelSwitch(_)
        | Operation::ConfigChange(_)
        | Operation::SecretChange(_)
        | Operation::FileOperation(_) => Vec::new(),
    }
}

/// Names and types of arguments, sorted by name: `{path:string,text:string}`.
pub(crate) fn shape(arguments: &Map<String, Value>) -> String {
    let mut names: Vec<_> = arguments.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    let each = names.into_iter().map(|(name, value)| {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        // As JSON, so that no name can look like another name and its type.
        format!("{}:{kind}", Value::from(name.as_str()))
    });
    let shape = format!("{{{}}}", each.collect::<Vec<_>>().join(","));
    if shape.len() > MAX_SHAPE {
        Digest::of(shape.as_bytes()).to_string()
    } else {
        shape
    }
}

/// The digest of all that arguments say.
pub(crate) fn digest(arguments: &Map<String, Value>) -> String {
    Digest::of(canonical(&Value::Object(arguments.clone())).as_bytes()).to_string()
}

fn texts(spec: &Map<String, Value>, member: &str) -> Vec<String> {
    let all = spec.get(member).and_then(Value::as_array);
    all.into_iter()
        .flatten()
        .map(|value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        })
        .collect()
}

/// What a tool's argument `path` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Path {
    /// There is none.
    None,
    /// A path beneath the workspace, in its one form; `.` for the workspace itself.
    Inside(String),
    /// A text that is no such path, or no text.
    Unreadable,
}

/// The path that a tool is called with.
pub(crate) fn path(call: &ToolArguments) -> Path {
    match call.arguments.get("path") {
        None => Path::None,
        Some(Value::String(text)) => inside(text).map_or(Path::Unreadable, Path::Inside),
        Some(_) => Path::Unreadable,
    }
}

/// The one form of a path: relative, without empty names and `.`; none for what climbs, begins at the root, or cannot be shown.
fn inside(text: &str) -> Option<String> {
    if text.starts_with('/') || text.len() > MAX_PATH || text.chars().any(char::is_control) {
        return None;
    }
    let names: Vec<&str> = text
        .split('/')
        .filter(|name| !matches!(*name, "" | "."))
        .collect();
    if names.contains(&"..") {
        return None;
    }
    Some(if names.is_empty() {
        ".".to_owned()
    } else {
        names.join("/")
    })
}

/// `HOST:PORT` of a rule, without what narrows it.
pub(crate) fn place(rule: &str) -> &str {
    rule.split(',').next().unwrap_or(rule)
}

/// The methods that a rule is narrowed to; none where it has any.
pub(crate) fn methods(rule: &str) -> Vec<String> {
    let narrowed = rule.split(',').skip(1);
    let methods = narrowed.filter_map(|part| part.strip_prefix("method="));
    let each = methods.flat_map(|several| several.split('+'));
    each.map(str::to_owned).collect()
}

/// Where a call goes that only gets what is there: one of class egress, by methods that have no body, with nothing of the workspace.
pub(crate) fn gets(call: &ToolArguments) -> Option<(&str, Vec<String>)> {
    let rule = call.net.as_deref()?;
    let methods = methods(rule);
    let bare = methods
        .iter()
        .all(|it| matches!(it.as_str(), "GET" | "HEAD"));
    (call.class == ToolClass::Egress && path(call) == Path::None && bare && !methods.is_empty())
        .then(|| (place(rule), methods))
}

/// Host and port of a rule `HOST:PORT`, whatever narrows it.
pub(crate) fn host_and_port(rule: &str) -> Option<(&str, u16)> {
    let (host, port) = place(rule).rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

/// Hour of the day and day of the week, 1 for Monday, both in UTC.
pub(crate) fn clock(now_ms: u64) -> (i64, i64) {
    let days = now_ms / DAY_MS;
    // The first of January 1970 was a Thursday.
    (
        number((now_ms % DAY_MS) / 3_600_000),
        number((days + 3) % 7 + 1),
    )
}

/// As Cedar counts.
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_form_or_none() {
        let check = |text: &str, form: Option<&str>| {
            assert_eq!(inside(text).as_deref(), form, "{text:?}");
        };
        check("notes/today.txt", Some("notes/today.txt"));
        check("./notes//today.txt/", Some("notes/today.txt"));
        check("", Some("."));
        check("notes/..", None);
        check("notes/../../etc/passwd", None);
        check("/etc/passwd", None);
        check("a\0b", None);
        check("a\u{1b}[2Jb", None);
        check("..a/b..", Some("..a/b.."));
        check(&"x".repeat(MAX_PATH + 1), None);
    }

    #[test]
    fn no_two_shapes_look_the_same() {
        let shape = |text: &str| shape(&serde_json::from_str(text).unwrap());
        assert_eq!(shape(r#"{"b":1,"a":"x"}"#), r#"{"a":string,"b":number}"#);
        assert_ne!(shape(r#"{"a:string,b":1}"#), shape(r#"{"a":"x","b":1}"#));
        let many = (0..200).map(|n| format!("\"name{n}\":1"));
        let long = shape(&format!("{{{}}}", many.collect::<Vec<_>>().join(",")));
        assert_eq!(long.len(), 64);
    }

    #[test]
    fn time_is_told_in_hours_and_days_of_the_week() {
        // 2026-11-24 is a Tuesday.
        assert_eq!(clock(1_795_478_400_000 + 13 * 3_600_000), (13, 2));
        assert_eq!(clock(0), (0, 4));
    }
}
