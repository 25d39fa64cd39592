//! Every method of the control socket: the role it needs, its members, and what it is for.
//!
//! pawd's gate reads this table before any handler runs: a method that is not in it does not exist, a caller below its role
//! is denied, and a member that is not in it is an error. So nobody can claim an identity by adding a field, and a new
//! method cannot be forgotten: the tests compare the table with the registered methods.

mod sandbox;
mod secret;

use paw_policy::Role;
use serde_json::{Value, json};

/// One method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// Its name on the wire.
    pub name: &'static str,
    /// The least role that may call it.
    pub role: Role,
    /// The members that its parameters may have.
    pub params: &'static [&'static str],
    /// What it is for, in one sentence.
    pub summary: &'static str,
    /// The name of its notifications, if it is a subscription.
    pub notifies: Option<&'static str>,
}

const fn call(
    name: &'static str,
    role: Role,
    params: &'static [&'static str],
    summary: &'static str,
) -> Method {
    Method {
        name,
        role,
        params,
        summary,
        notifies: None,
    }
}

const fn subscription(
    name: &'static str,
    notifies: &'static str,
    role: Role,
    params: &'static [&'static str],
    summary: &'static str,
) -> Method {
    Method {
        name,
        role,
        params,
        summary,
        notifies: Some(notifies),
    }
}

/// All of them, sorted by name.
pub const TABLE: &[Method] = &joined::<
    { TO_RPC.len() + sandbox::ROWS.len() + secret::ROWS.len() + FROM_SESSION.len() },
>([TO_RPC, sandbox::ROWS, secret::ROWS, FROM_SESSION]);

const fn joined<const N: usize>(parts: [&[Method]; 4]) -> [Method; N] {
    let mut all = [parts[0][0]; N];
    let (mut part, mut row, mut at) = (0, 0, 0);
    while at < N {
        if row < parts[part].len() {
            all[at] = parts[part][row];
            (row, at) = (row + 1, at + 1);
        } else {
            (part, row) = (part + 1, 0);
        }
    }
    all
}

const TO_RPC: &[Method] = &[
    call(
        "action.cancel",
        Role::User,
        &["id"],
        "Takes an action back.",
    ),
    call(
        "action.list",
        Role::User,
        &["state", "limit", "before"],
        "Lists actions, newest first.",
    ),
    call(
        "action.show",
        Role::User,
        &["id"],
        "Shows one action with its plan.",
    ),
    call(
        "action.submit",
        Role::User,
        &[
            "kind",
            "arguments",
            "agent",
            "session",
            "wait",
            "timeout_ms",
        ],
        "Asks for something to be done.",
    ),
    call(
        "action.wait",
        Role::User,
        &["id", "timeout_ms"],
        "Waits until an action is final.",
    ),
    call(
        "agent.create",
        Role::Admin,
        &["name", "spec"],
        "Registers an agent.",
    ),
    call(
        "agent.edit",
        Role::Admin,
        &["name", "spec"],
        "Changes an agent that was registered.",
    ),
    call("agent.list", Role::User, &[], "Lists agents."),
    call(
        "agent.remove",
        Role::Admin,
        &["name"],
        "Removes an agent that was registered.",
    ),
    call("agent.show", Role::User, &["name"], "Shows one agent."),
    call(
        "approval.answer",
        Role::Approver,
        &["id", "digest", "answer", "note", "code", "count", "for_ms"],
        "Answers a question.",
    ),
    call(
        "approval.confirm",
        Role::Approver,
        &["code"],
        "Ends an enrolment with the first code.",
    ),
    call(
        "approval.enroll",
        Role::Approver,
        &["code"],
        "Begins to enroll an authenticator of the caller.",
    ),
    call(
        "approval.forget",
        Role::Admin,
        &["uid"],
        "Removes the authenticator of another user.",
    ),
    call(
        "approval.grants",
        Role::Approver,
        &[],
        "Lists what is granted for a while.",
    ),
    call(
        "approval.list",
        Role::Approver,
        &["after", "limit"],
        "Lists questions that wait for a person.",
    ),
    call(
        "approval.revoke",
        Role::Approver,
        &["id"],
        "Takes a grant back.",
    ),
    call(
        "approval.show",
        Role::Approver,
        &["id"],
        "Shows one question.",
    ),
    call(
        "audit.find",
        Role::Admin,
        &["filter", "before", "limit"],
        "Finds audit records, newest first.",
    ),
    call(
        "audit.list",
        Role::Admin,
        &["action", "event", "before", "limit"],
        "Lists audit records, newest first.",
    ),
    call(
        "audit.verify",
        Role::Admin,
        &[],
        "Checks the whole audit log.",
    ),
    call("budget.list", Role::Admin, &[], "Lists budgets."),
    call(
        "budget.remove",
        Role::Admin,
        &["name"],
        "Removes a budget that was registered.",
    ),
    call(
        "budget.set",
        Role::Admin,
        &["name", "spec"],
        "Registers or changes a budget.",
    ),
    call("budget.show", Role::Admin, &["name"], "Shows one budget."),
    call(
        "chat.cancel",
        Role::User,
        &["subscription"],
        "Ends a chat subscription and cancels its action.",
    ),
    subscription(
        "chat.send",
        "chat.event",
        Role::User,
        &[
            "text",
            "agent",
            "session",
            "provider",
            "model",
            "local_only",
            "route",
            "schema",
            "images",
        ],
        "One turn of a conversation, streamed.",
    ),
    call(
        "config.reload",
        Role::Admin,
        &[],
        "Reads the configuration again.",
    ),
    call(
        "config.show",
        Role::Admin,
        &[],
        "Shows the configuration in force.",
    ),
    subscription(
        "events.subscribe",
        "events.event",
        Role::Approver,
        &["after"],
        "News as they happen.",
    ),
    call(
        "events.unsubscribe",
        Role::Approver,
        &["subscription"],
        "Ends an events subscription.",
    ),
    call(
        "image.add",
        Role::Admin,
        &["upload", "name", "origin"],
        "Makes an image of an archive that was sent.",
    ),
    call("image.list", Role::User, &[], "Lists images."),
    call("image.remove", Role::Admin, &["name"], "Removes an image."),
    call(
        "image.send",
        Role::Admin,
        &["data", "upload"],
        "Sends bytes of an archive.",
    ),
    call(
        "job.add",
        Role::User,
        &["cron", "tz", "text", "name", "agent", "overlap", "catch_up"],
        "Has an agent told something at set times.",
    ),
    call(
        "job.history",
        Role::User,
        &["job", "limit"],
        "Shows the last runs of a job, newest first.",
    ),
    call("job.list", Role::User, &[], "Lists jobs."),
    call("job.remove", Role::User, &["job"], "Removes a job."),
    call(
        "job.run",
        Role::User,
        &["job"],
        "Begins a run of a job now.",
    ),
    call(
        "mcp.call",
        Role::User,
        &["agent", "skill", "tool", "arguments"],
        "Calls a tool for another program's model.",
    ),
    call(
        "model.ab",
        Role::Admin,
        &["route"],
        "Shows what became of each arm of a route.",
    ),
    call(
        "model.abort",
        Role::Admin,
        &["subscription"],
        "Ends a pull of a model.",
    ),
    call(
        "model.leave",
        Role::Admin,
        &["subscription"],
        "Ends a switch that is not done; then nothing changes.",
    ),
    call("model.list", Role::User, &["provider"], "Lists models."),
    subscription(
        "model.pull",
        "model.pulling",
        Role::Admin,
        &["model", "provider"],
        "Has a provider fetch a model.",
    ),
    call(
        "model.show",
        Role::User,
        &["name", "provider"],
        "Shows one model.",
    ),
    subscription(
        "model.switch",
        "model.switching",
        Role::Admin,
        &["model", "provider", "agent", "unlisted", "timeout_ms"],
        "Makes another model answer, once it has answered.",
    ),
    call(
        "model.warm",
        Role::Admin,
        &["model", "provider", "timeout_ms"],
        "Loads a model and asks it a short question.",
    ),
    call(
        "policy.explain",
        Role::User,
        &["id"],
        "Says which rules decided about an action.",
    ),
    call("policy.reload", Role::Admin, &[], "Reads the rules again."),
    call("policy.show", Role::User, &[], "Shows the rules in force."),
    call(
        "provider.add",
        Role::Admin,
        &["name", "spec"],
        "Registers a provider.",
    ),
    call(
        "provider.default",
        Role::Admin,
        &["name"],
        "Makes a provider the one of agents that name none.",
    ),
    call(
        "provider.edit",
        Role::Admin,
        &["name", "spec"],
        "Changes a provider that was registered.",
    ),
    call("provider.list", Role::User, &[], "Lists providers."),
    call(
        "provider.remove",
        Role::Admin,
        &["name"],
        "Removes a provider that was registered.",
    ),
    call(
        "provider.reset",
        Role::Admin,
        &["name"],
        "Closes the breakers of a provider.",
    ),
    call(
        "provider.show",
        Role::User,
        &["name"],
        "Shows one provider.",
    ),
    call(
        "provider.test",
        Role::Admin,
        &["name"],
        "Asks a provider a short question.",
    ),
    call("route.list", Role::User, &[], "Lists routes."),
    call("route.show", Role::User, &["name"], "Shows one route."),
    call(
        "rpc.discover",
        Role::User,
        &[],
        "Describes every method (OpenRPC).",
    ),
];

const FROM_SESSION: &[Method] = &[
    call(
        "session.delete",
        Role::User,
        &["id"],
        "Removes a conversation.",
    ),
    call(
        "session.list",
        Role::User,
        &["limit", "before", "all"],
        "Lists conversations, newest first.",
    ),
    call(
        "session.show",
        Role::User,
        &["id", "from"],
        "Shows a conversation.",
    ),
    call(
        "skill.disable",
        Role::Admin,
        &["name"],
        "Switches an installed skill off.",
    ),
    call("skill.list", Role::User, &[], "Lists skills."),
    call(
        "skill.send",
        Role::Admin,
        &["files", "upload"],
        "Sends files of a bundle.",
    ),
    call("skill.show", Role::User, &["name"], "Shows one skill."),
    call(
        "skill.stage",
        Role::Admin,
        &["upload"],
        "Reads a bundle that was sent.",
    ),
    call(
        "skill.verify",
        Role::Admin,
        &["name"],
        "Compares installed skills with what was approved.",
    ),
    call(
        "system.backup",
        Role::Admin,
        &["path"],
        "Writes a copy of the store.",
    ),
    call(
        "system.doctor",
        Role::User,
        &["prove"],
        "Says what is wrong and what to do.",
    ),
    call(
        "system.metrics",
        Role::User,
        &[],
        "Tells what was counted and timed, as OpenMetrics text.",
    ),
    call("system.ping", Role::User, &[], "Answers at once."),
    call("system.status", Role::User, &[], "Says how the system is."),
    call(
        "system.whoami",
        Role::User,
        &[],
        "Says who the kernel reports the caller to be.",
    ),
    call(
        "workspace.commit",
        Role::Approver,
        &["id", "digest"],
        "Makes what a run wrote part of its workspace, as it was shown.",
    ),
    call(
        "workspace.diff",
        Role::User,
        &["id", "from"],
        "Shows what a run changed in its workspace.",
    ),
    call(
        "workspace.discard",
        Role::User,
        &["id"],
        "Throws away what a run wrote.",
    ),
    call(
        "workspace.list",
        Role::User,
        &["agent"],
        "Lists what is pending in workspaces, and what can be undone.",
    ),
    call(
        "workspace.undo",
        Role::Approver,
        &["id"],
        "Takes back a commit and every one after it.",
    ),
];

/// Whether a method changes nothing, so that asking it again after a connection broke is no harm.
#[must_use]
pub fn only_reads(name: &str) -> bool {
    let word = name.rsplit('.').next().unwrap_or_default();
    find(name).is_some()
        && matches!(
            word,
            "diff"
                | "discover"
                | "doctor"
                | "explain"
                | "grants"
                | "list"
                | "metrics"
                | "ping"
                | "runtimes"
                | "show"
                | "stats"
                | "status"
                | "verify"
                | "wait"
                | "whoami"
        )
}

/// The method of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Method> {
    TABLE
        .binary_search_by_key(&name, |method| method.name)
        .ok()
        .map(|index| &TABLE[index])
}

/// The answer of `rpc.discover`: OpenRPC 1.3.2, with the schemas of results that the caller passes in by method name.
#[must_use]
pub fn open_rpc(version: &str, schema_of: impl Fn(&str) -> Option<Value>) -> Value {
    let methods: Vec<Value> = TABLE
        .iter()
        .map(|method| {
            json!({
                "name": method.name,
                "summary": method.summary,
                "paramStructure": "by-name",
                "params": method.params.iter().map(|name| json!({"name": name, "schema": {}})).collect::<Vec<_>>(),
                "result": {"name": "result", "schema": schema_of(method.name).unwrap_or_else(|| json!({}))},
                "x-role": method.role,
                "x-notifies": method.notifies,
            })
        })
        .collect();
    let errors: Vec<Value> = crate::ErrorKind::ALL
        .iter()
        .map(|kind| json!({"code": kind.code(), "message": kind}))
        .chain(
            crate::fault::CODES
                .iter()
                .map(|(code, name)| json!({"code": code, "message": name})),
        )
        .collect();
    json!({
        "openrpc": "1.3.2",
        "info": {"title": "pawd", "version": version, "x-wire": crate::WIRE_VERSION},
        "methods": methods,
        "components": {"errors": errors},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_finds_every_method() {
        assert!(TABLE.is_sorted_by_key(|method| method.name));
        for method in TABLE {
            assert_eq!(find(method.name), Some(method));
        }
        assert_eq!(find("system.pin"), None);
    }

    #[test]
    fn what_changes_something_is_not_asked_again() {
        let changes = [
            "action.submit",
            "action.cancel",
            "approval.answer",
            "chat.send",
            "config.reload",
            "sandbox.kill",
            "session.delete",
            "system.backup",
        ];
        assert!(
            changes
                .into_iter()
                .all(|name| find(name).is_some() && !only_reads(name))
        );
        assert!(
            ["system.status", "action.wait", "approval.list"]
                .into_iter()
                .all(only_reads)
        );
        assert!(!only_reads("nosuch.list"));
    }
}
