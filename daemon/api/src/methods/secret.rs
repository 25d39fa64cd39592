//! Methods of the vault.

use paw_policy::Role;

use super::{Method, call};

pub(super) const ROWS: &[Method] = &[
    call(
        "secret.allow",
        Role::Admin,
        &["name", "user"],
        "Lets somebody use a secret.",
    ),
    call(
        "secret.deny",
        Role::Admin,
        &["name", "user"],
        "Lets somebody use a secret no longer.",
    ),
    call(
        "secret.export",
        Role::Admin,
        &[],
        "Gives the whole vault, encrypted, to be kept elsewhere.",
    ),
    call(
        "secret.import",
        Role::Admin,
        &["copy", "passphrase", "recovery", "key", "force"],
        "Puts a copy of the vault in its place.",
    ),
    call(
        "secret.init",
        Role::Admin,
        &["passphrase", "key"],
        "Makes the vault, and gives its recovery key.",
    ),
    call(
        "secret.list",
        Role::Admin,
        &[],
        "Lists secrets, without their values.",
    ),
    call(
        "secret.lock",
        Role::Admin,
        &[],
        "Seals the vault until it is unlocked.",
    ),
    call(
        "secret.log",
        Role::Admin,
        &["name", "before", "limit"],
        "Lists audit records of secrets.",
    ),
    call(
        "secret.rekey",
        Role::Admin,
        &["passphrase", "key"],
        "Gives the vault another key, and its new recovery key.",
    ),
    call(
        "secret.remove",
        Role::Admin,
        &["name", "version"],
        "Destroys a secret, or an older version of it.",
    ),
    call(
        "secret.rotate",
        Role::Admin,
        &["name", "value", "keep_ms"],
        "Gives a secret another value.",
    ),
    call(
        "secret.set",
        Role::Admin,
        &["name", "value"],
        "Keeps a value under a new name.",
    ),
    call(
        "secret.show",
        Role::Admin,
        &["name"],
        "Shows one secret, without its value.",
    ),
    call("secret.status", Role::Admin, &[], "Says how the vault is."),
    call(
        "secret.unlock",
        Role::Admin,
        &["passphrase", "recovery", "key"],
        "Opens the vault.",
    ),
];
