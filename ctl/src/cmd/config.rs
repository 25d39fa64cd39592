//! `pawctl config`: what pawd runs on. The check is pawd's own, so that it can never differ from what pawd would say.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use paw_api::system::Reloaded;
use serde_json::Value;

use crate::{
    cli::{self, Global},
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Out, json, text},
};

pub(super) async fn run(
    global: &Global,
    out: &mut Out,
    command: cli::Config,
) -> Result<u8, Failure> {
    match command {
        cli::Config::Show => {
            let pawd = Connection::open(global).await?;
            let answer = pawd
                .call("show the configuration", "config.show", Params::none())
                .await?;
            out.answer(&answer, |config: &Value, _| show(config))?;
            Ok(exit::DONE)
        }
        cli::Config::Check => check(global),
        cli::Config::Reload => {
            let pawd = Connection::open(global).await?;
            let answer = pawd
                .call_patiently("reload the configuration", "config.reload", Params::none())
                .await?;
            out.answer(&answer, |done: &Reloaded, _| {
                let mut shown = match done.changed.as_slice() {
                    [] => "nothing changed\n".to_owned(),
                    changed => format!("changed: {}\n", text::line(&changed.join(", "))),
                };
                if !done.needs_restart.is_empty() {
                    let waiting = text::line(&done.needs_restart.join(", ")).into_owned();
                    shown.push_str(&format!(
                        "needs a restart (systemctl restart pawd): {waiting}\n"
                    ));
                }
                shown
            })?;
            Ok(exit::DONE)
        }
    }
}

/// TOML, as in the files; JSON if it does not fit TOML.
fn show(config: &Value) -> String {
    let shown = toml::to_string_pretty(&without_nulls(config))
        .unwrap_or_else(|_| json::indented(&config.to_string()));
    let shown = text::plain(&shown);
    if shown.ends_with('\n') {
        shown.into_owned()
    } else {
        format!("{shown}\n")
    }
}

/// TOML has no null: what is not set is not shown.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Runs `pawd --check-config` and passes its exit code on.
fn check(global: &Global) -> Result<u8, Failure> {
    let doing = "check the configuration";
    let pawd = find_pawd().ok_or_else(|| Failure::NotFound {
        doing: doing.to_owned(),
        why: "pawd is neither beside pawctl nor in /usr/sbin".to_owned(),
        remedy: "install the package pawd on this host".to_owned(),
    })?;
    let mut command = Command::new(pawd);
    if let Some(root) = &global.root {
        command.arg("--root").arg(root);
    }
    let status = command
        .arg("--check-config")
        .status()
        .map_err(|error| Failure::io(doing, &error))?;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(u8::try_from(code).unwrap_or(exit::FAILED)),
        (None, signal) => Err(Failure::Local {
            doing: doing.to_owned(),
            why: format!("pawd was ended by signal {}", signal.unwrap_or(0)),
            remedy: "look at the kernel's journal: journalctl -k -n 50".to_owned(),
        }),
    }
}

/// The program pawd: beside this one, in the `sbin` beside our `bin`, else where the package puts it.
pub(super) fn find_pawd() -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let bin = own.as_deref().and_then(Path::parent);
    let near = bin.map(|bin| [bin.join("pawd"), bin.join("../sbin/pawd")]);
    near.into_iter()
        .flatten()
        .chain([PathBuf::from("/usr/sbin/pawd")])
        .find(|path| Path::is_file(path))
}
