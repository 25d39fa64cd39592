//! `pawctl secret export` and `import`: the vault as one file, encrypted as it is.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use paw_api::secret::VaultCopy;
use serde_json::json;

use crate::{
    connect::{Answer, Connection, Params},
    fail::Failure,
    hidden,
    render::{Out, text},
};

/// The longest file that is read, in bytes: what pawd takes.
const MAX: u64 = 700 * 1024;

pub(super) async fn export(pawd: &Connection, out: &mut Out, file: &Path) -> Result<(), Failure> {
    let doing = "export the vault";
    let answer = pawd
        .call_patiently(doing, "secret.export", Params::none())
        .await?;
    let copy: VaultCopy = answer.read()?;
    let failed = |error: &io::Error| Failure::io(format!("write {}", file.display()), error);
    let bytes = STANDARD
        .decode(&copy.copy)
        .map_err(|error| failed(&io::Error::other(error)))?;
    let mut to = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .map_err(|error| failed(&error))?;
    to.write_all(&bytes)
        .and_then(|()| to.sync_all())
        .map_err(|error| failed(&error))?;
    out.answer(&answer, |copy: &VaultCopy, _| {
        format!(
            "exported generation {} of the vault to {}\nWhoever has a key of the vault can open it: keep them apart.\n",
            text::count(copy.generation),
            text::line(&file.display().to_string())
        )
    })
}

/// Puts a file back; `key` is the name of the member and of what is asked for, where it is not the key that pawd was started with.
pub(super) async fn import(
    pawd: &Connection,
    file: &Path,
    key: Option<(&str, &str)>,
    force: bool,
) -> Result<Answer, Failure> {
    let doing = "import the vault";
    let failed = |error: &io::Error| Failure::io(format!("read {}", file.display()), error);
    let mut bytes = Vec::new();
    fs::File::open(file)
        .and_then(|from| from.take(MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| failed(&error))?;
    let mut params = json!({"copy": STANDARD.encode(bytes), "force": force});
    if let Some((member, what)) = key {
        params[member] = json!(hidden::ask(doing, what)?);
    }
    pawd.call_patiently(doing, "secret.import", Params::named(params))
        .await
}
