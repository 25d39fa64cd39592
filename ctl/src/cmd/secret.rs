//! `pawctl secret`: the vault. Nothing here shows a value; a recovery key is shown once, when it is made.

mod copy;
mod keyfile;

use paw_api::secret::{Hidden, Secret, VaultKeyed, VaultStatus};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use self::keyfile::KeyFile;
use super::block;
use crate::{
    cli::{self, Global},
    connect::{Answer, Connection, Params},
    fail::{Failure, exit},
    hidden,
    render::{Look, Out, Tone, table, text},
};

pub(super) async fn run(
    global: &Global,
    out: &mut Out,
    command: cli::Secret,
) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    match command {
        cli::Secret::Init(key) => {
            let doing = "make the vault";
            let made = keyed(global, &pawd, doing, "secret.init", &key, KeyFile::create).await?;
            out.answer(&made, |made: &VaultKeyed, look| {
                shown_once(made, "made", look)
            })?;
        }
        cli::Secret::Rekey(key) => {
            let doing = "give the vault another key";
            let made = keyed(global, &pawd, doing, "secret.rekey", &key, KeyFile::next).await?;
            out.answer(&made, |made: &VaultKeyed, look| {
                shown_once(made, "has another key", look)
            })?;
        }
        cli::Secret::Status => {
            let answer = pawd
                .call("ask how the vault is", "secret.status", Params::none())
                .await?;
            out.answer(&answer, status)?;
        }
        cli::Secret::Unlock { recovery } => {
            let answer = unlock(global, &pawd, recovery).await?;
            out.answer(&answer, status)?;
        }
        cli::Secret::Lock => {
            let answer = pawd
                .call("seal the vault", "secret.lock", Params::none())
                .await?;
            out.answer(&answer, status)?;
        }
        cli::Secret::Set { name } => {
            let doing = format!("set {}", text::line(&name));
            let value = hidden::ask_twice(&doing, "Value")?;
            let params = json!({"name": name, "value": value});
            change(&pawd, out, &doing, "secret.set", params, "set").await?;
        }
        cli::Secret::Rotate { name, keep } => {
            let doing = format!("rotate {}", text::line(&name));
            let value = hidden::ask_twice(&doing, "New value")?;
            let keep = keep.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
            let params = json!({"name": name, "value": value, "keep_ms": keep});
            change(&pawd, out, &doing, "secret.rotate", params, "rotated").await?;
        }
        cli::Secret::Remove { name, version } => {
            let doing = format!("remove {}", text::line(&name));
            let params = json!({"name": name, "version": version});
            change(&pawd, out, &doing, "secret.remove", params, "removed").await?;
        }
        cli::Secret::Allow { name, users } => {
            let doing = format!("allow {}", text::line(&name));
            for user in users.all() {
                let params = json!({"name": name, "user": user});
                let done = format!("{} may use", text::line(&user));
                change(&pawd, out, &doing, "secret.allow", params, &done).await?;
            }
        }
        cli::Secret::Deny { name, users } => {
            let doing = format!("deny {}", text::line(&name));
            for user in users.all() {
                let params = json!({"name": name, "user": user});
                let done = format!("{} may no longer use", text::line(&user));
                change(&pawd, out, &doing, "secret.deny", params, &done).await?;
            }
        }
        cli::Secret::Export { file } => copy::export(&pawd, out, &file).await?,
        cli::Secret::Import {
            file,
            recovery,
            passphrase,
            force,
        } => {
            let key = match (recovery, passphrase) {
                (true, _) => Some(("recovery", "Recovery key")),
                (_, true) => Some(("passphrase", "Passphrase of the vault")),
                _ => None,
            };
            let answer = copy::import(&pawd, &file, key, force).await?;
            out.answer(&answer, status)?;
        }
        cli::Secret::List => {
            let answer = pawd
                .call("list secrets", "secret.list", Params::none())
                .await?;
            out.answer(&answer, |secrets: &Vec<Secret>, look| list(secrets, look))?;
        }
        cli::Secret::Show { name } => {
            let params = Params::named(json!({"name": name}));
            let answer = pawd.call("show the secret", "secret.show", params).await?;
            out.answer(&answer, show)?;
        }
        cli::Secret::Log {
            name,
            before,
            limit,
        } => {
            let params = Params::named(json!({"name": name, "before": before, "limit": limit}));
            let answer = pawd
                .call("read the log of secrets", "secret.log", params)
                .await?;
            out.answer(&answer, |records: &Vec<Value>, look| {
                super::audit::records(records, look, "no record of a secret")
            })?;
        }
    }
    Ok(exit::DONE)
}

async fn change(
    pawd: &Connection,
    out: &mut Out,
    doing: &str,
    method: &str,
    params: Value,
    done: &str,
) -> Result<(), Failure> {
    let answer = pawd.call(doing, method, Params::named(params)).await?;
    out.answer(&answer, |secret: &Secret, _| {
        format!("{done} {}\n", text::line(&secret.name))
    })
}

/// Has a vault made or given another key, which is the one that pawd was started with, a passphrase, or one in a file.
async fn keyed(
    global: &Global,
    pawd: &Connection,
    doing: &str,
    method: &str,
    key: &cli::NewKey,
    file: fn(&Global) -> Result<KeyFile, Failure>,
) -> Result<Answer, Failure> {
    if key.passphrase {
        let passphrase = hidden::passphrase(doing, "Passphrase of the vault", hidden::ask_twice)?;
        let params = Params::named(json!({"passphrase": passphrase}));
        return pawd.call_patiently(doing, method, params).await;
    }
    if !key.key_file {
        return pawd.call_patiently(doing, method, Params::none()).await;
    }
    let file = file(global)?;
    let params = Params::named(json!({"key": file.digits()}));
    match pawd.call_patiently(doing, method, params).await {
        Ok(answer) => {
            file.is_in_use()?;
            Ok(answer)
        }
        Err(failure @ Failure::Refused { .. }) => {
            file.is_of_no_use();
            Err(failure)
        }
        // Nobody knows whether it was done; the next start, or the same command again, finds out.
        Err(failure) => Err(failure),
    }
}

async fn unlock(global: &Global, pawd: &Connection, recovery: bool) -> Result<Answer, Failure> {
    let doing = "unlock the vault";
    let asked = |what| hidden::ask(doing, what);
    let params = if recovery {
        json!({"recovery": asked("Recovery key")?})
    } else {
        let answer = pawd.call(doing, "secret.status", Params::none()).await?;
        let status: VaultStatus = answer.read()?;
        match status.key.as_deref() {
            Some("passphrase") => {
                json!({"passphrase": hidden::passphrase(doing, "Passphrase of the vault", hidden::ask)?})
            }
            _ => {
                // One that this caller may read, and pawd may not have been started with.
                let opened = pawd.call(doing, "secret.unlock", Params::none()).await;
                let (Err(failure), keys) = (&opened, keyfile::found(global)) else {
                    return opened;
                };
                if !matches!(failure, Failure::Refused { .. }) {
                    return opened;
                }
                for key in keys {
                    let params = Params::named(json!({"key": key}));
                    if let Ok(answer) = pawd.call(doing, "secret.unlock", params).await {
                        return Ok(answer);
                    }
                }
                return opened;
            }
        }
    };
    pawd.call_patiently(doing, "secret.unlock", Params::named(params))
        .await
}

fn shown_once(made: &VaultKeyed, what: &str, look: &Look) -> String {
    let Hidden(key) = &made.recovery_key;
    let key = look.paint(Tone::Bold, key.expose_secret());
    format!(
        "the vault {what}\n\nRecovery key: {key}\n\nIt opens the vault when its key is lost, and is shown this once. Write it down, and \
         keep it where the host and its backups are not.\n"
    )
}

fn status(status: &VaultStatus, look: &Look) -> String {
    let tone = match status.state.as_str() {
        "unsealed" => Tone::Good,
        "uninitialised" | "sealed" => Tone::Warn,
        _ => Tone::Bad,
    };
    let line = |text: &String| text::line(text).into_owned();
    block(vec![
        (
            "  State",
            Some(look.paint(tone, &text::line(&status.state))),
        ),
        ("Key", status.key.as_ref().map(line)),
        ("Started with", status.key_at_start.as_ref().map(line)),
        ("Secrets", status.secrets.map(text::count)),
        ("Generation", status.generation.map(text::count)),
        (
            "Wrong keys",
            (status.wrong_keys > 0).then(|| text::count(status.wrong_keys)),
        ),
        (
            "Paused until",
            status.paused_until.map(|until| text::time(until, look)),
        ),
        ("Vault", status.vault.as_ref().map(line)),
        ("Fault", status.fault.as_ref().map(line)),
    ])
}

fn list(secrets: &[Secret], look: &Look) -> String {
    let rows = secrets
        .iter()
        .map(|secret| {
            let newest = secret.versions.last();
            vec![
                table::text(&secret.name),
                table::number(newest.map_or_else(|| "-".into(), |it| text::count(it.version))),
                table::text(
                    &newest.map_or_else(|| "-".into(), |it| text::time(it.created_at, look)),
                ),
                table::text(&if secret.users.is_empty() {
                    "nobody".to_owned()
                } else {
                    secret.users.join(" ")
                }),
            ]
        })
        .collect();
    let head = ["NAME", "VERSION", "SINCE", "FOR"];
    table::table(&head, rows, look, "no secrets; see pawctl secret set")
}

fn show(secret: &Secret, look: &Look) -> String {
    let users = if secret.users.is_empty() {
        "nobody; see pawctl secret allow".to_owned()
    } else {
        text::line(&secret.users.join(" ")).into_owned()
    };
    let mut shown = block(vec![
        ("  Name", Some(text::line(&secret.name).into_owned())),
        ("Made", Some(text::time(secret.created_at, look))),
        ("For", Some(users)),
    ]);
    let rows = secret
        .versions
        .iter()
        .rev()
        .map(|version| {
            vec![
                table::number(text::count(version.version)),
                table::text(&text::time(version.created_at, look)),
                table::text(
                    &version
                        .until
                        .map_or_else(|| "-".into(), |until| text::time(until, look)),
                ),
                table::text(if version.header {
                    "header"
                } else {
                    "no header"
                }),
            ]
        })
        .collect();
    shown.push('\n');
    let head = ["VERSION", "SINCE", "UNTIL", "FIT FOR"];
    shown.push_str(&table::table(&head, rows, look, "no version"));
    shown
}
