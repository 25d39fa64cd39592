//! Methods of sandboxes.

use paw_policy::Role;

use super::{Method, call, subscription};

pub(super) const ROWS: &[Method] = &[
    call(
        "sandbox.abort",
        Role::User,
        &["subscription"],
        "Ends a sandbox subscription and kills its sandbox.",
    ),
    call(
        "sandbox.gc",
        Role::Admin,
        &[],
        "Forgets sandboxes that have ended.",
    ),
    call(
        "sandbox.input",
        Role::User,
        &["id", "data", "end"],
        "Sends bytes to a command's stdin.",
    ),
    call("sandbox.kill", Role::Admin, &["id"], "Kills a sandbox."),
    call(
        "sandbox.leave",
        Role::User,
        &["subscription"],
        "Ends the reading of a sandbox's log.",
    ),
    call("sandbox.list", Role::Admin, &[], "Lists running sandboxes."),
    subscription(
        "sandbox.logs",
        "sandbox.said",
        Role::User,
        &["id", "follow"],
        "Shows what a sandbox's command said lately.",
    ),
    call(
        "sandbox.resize",
        Role::User,
        &["id", "rows", "cols"],
        "Gives a command's terminal another size.",
    ),
    subscription(
        "sandbox.run",
        "sandbox.output",
        Role::User,
        &["spec"],
        "Runs a command in a sandbox of its own.",
    ),
    call(
        "sandbox.runtimes",
        Role::User,
        &[],
        "Lists runtimes and what was proven of them.",
    ),
    call("sandbox.show", Role::User, &["id"], "Shows a sandbox."),
    call(
        "sandbox.stats",
        Role::User,
        &["id"],
        "Tells what running sandboxes have used.",
    ),
];
