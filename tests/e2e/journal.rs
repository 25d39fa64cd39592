//! What reaches the journal: real processes of ours in a mount namespace in which we are the journal.

use std::{collections::BTreeMap, process::Command};

use harness::{
    Root, Running, cases, pawd,
    report::Case,
    root::{gid, uid},
    within,
};
use nix::sys::signal::Signal;
use tokio::net::UnixDatagram;

use crate::without_root;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_root;
        lifecycle_reaches_the_journal_with_its_fields,
        checkpoint_of_the_log_reaches_the_journal_and_holds_against_a_log_that_was_cut,
    ]
}

/// Puts a directory of ours where the journal's socket is, says that stderr is the journal, and becomes a program of ours.
const SCRIPT: &str = r#"
mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind "$1" /run/systemd/journal || exit 99
JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); export JOURNAL_STREAM
shift
uid=$1 gid=$2; shift 2
exec setpriv --reuid "$uid" --regid "$gid" --clear-groups "$@"
"#;

/// The fields of one entry in the journal's own format: `NAME=value` lines, or a name, a length and bytes.
fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(&entry[..end]).into_owned();
        entry = &entry[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            fields.insert(name.to_owned(), value.to_owned());
        } else if let Some((length, rest)) = entry.split_first_chunk::<8>() {
            let length = usize::try_from(u64::from_le_bytes(*length)).expect("a small entry");
            fields.insert(line, String::from_utf8_lossy(&rest[..length]).into_owned());
            entry = &rest[length + 1..];
        }
    }
    fields
}

/// The socket that a program in [`SCRIPT`] takes for the journal's, and what runs that program.
fn journal_of(root: &Root) -> (UnixDatagram, Command) {
    let place = root.path().join("journal");
    std::fs::create_dir(&place).expect("the root is ours");
    let journal = UnixDatagram::bind(place.join("socket")).expect("the root is ours");
    root.mode("journal/socket", 0o666);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", SCRIPT, "sh"]).arg(&place);
    command.args([uid().to_string(), gid().to_string()]);
    (journal, command)
}

/// The next entry of which this is true.
async fn entry(
    journal: &UnixDatagram,
    what: &str,
    wanted: impl Fn(&BTreeMap<String, String>) -> bool,
) -> BTreeMap<String, String> {
    within(what, async {
        let mut entry = vec![0; 64 * 1024];
        loop {
            let length = journal.recv(&mut entry).await.expect("the socket is ours");
            let fields = fields(&entry[..length]);
            if wanted(&fields) {
                return fields;
            }
        }
    })
    .await
}

/// Whoever takes the host over can write the log's files anew, and not what the journal was told, where that is sent elsewhere.
async fn checkpoint_of_the_log_reaches_the_journal_and_holds_against_a_log_that_was_cut() {
    let root = Root::new();
    root.write("etc/pawd.toml", "");
    let (journal, mut command) = journal_of(&root);
    command.arg(harness::stage::program("paw-audit"));
    let command = pawd::audit_command(&root, command);
    let mut audit = Running::start("paw-audit", command);
    let _daemon = Running::unprivileged("pawd", pawd::command(&root));
    let signed = entry(
        &journal,
        "a checkpoint of a record in the journal",
        |fields| {
            fields
                .get("MESSAGE")
                .is_some_and(|it| it == "audit log signed")
                && fields.get("RECORD").is_some_and(|it| it != "0")
        },
    )
    .await;
    assert_eq!(
        (
            signed["SYSLOG_IDENTIFIER"].as_str(),
            signed["MESSAGE_ID"].as_str()
        ),
        ("paw-audit", "3b8e5f0c64d94a7fa1c2d7e90b16f4a8")
    );
    let checkpoint: serde_json::Value =
        serde_json::from_str(&signed["CHECKPOINT"]).expect("it is the line of the log");
    assert_eq!(
        checkpoint["checkpoint"]["seq"].to_string(),
        signed["RECORD"]
    );
    assert_eq!(audit.stderr(), "", "nothing is said twice");
    audit.signal(Signal::SIGTERM);
    audit.end().await;
    // As `journalctl -o json` writes it.
    let kept = root.path().join("kept");
    let line = serde_json::json!({"CHECKPOINT": signed["CHECKPOINT"]}).to_string();
    std::fs::write(&kept, line).expect("the root is ours");
    let verify = || {
        let mut command = Command::new(harness::stage::program("pawctl"));
        command
            .args(["audit", "verify"])
            .arg(root.path().join("log"));
        command.arg("--witness").arg(&kept);
        let output = command.output().expect("it starts");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (code, said) = verify();
    assert_eq!(code, Some(0), "{said}");
    // The log as it was before any record: whole by itself, and not what was signed.
    let log = root.path().join("log/audit.000001.log");
    let text = std::fs::read_to_string(&log).expect("root may read it");
    let first = text.lines().next().expect("it begins with a checkpoint");
    std::fs::write(&log, format!("{first}\n")).expect("root may write it");
    std::fs::remove_file(root.path().join("log/audit.checkpoint")).expect("it is there");
    let (code, said) = verify();
    assert_eq!(code, Some(1), "{said}");
}

async fn lifecycle_reaches_the_journal_with_its_fields() {
    let root = Root::new();
    root.write("etc/pawd.toml", "");
    let (journal, mut command) = journal_of(&root);
    let _audit = pawd::start_audit(&root);
    let plain = pawd::command(&root);
    command.arg(plain.get_program()).args(plain.get_args());
    let daemon = Running::start("pawd", command);
    let ready = entry(&journal, "ready in the journal", |fields| {
        fields.get("MESSAGE").is_some_and(|it| it == "ready")
    })
    .await;
    let catalog =
        std::fs::read_to_string(harness::stage::usr().join("lib/systemd/catalog/pawd.catalog"))
            .expect("it is installed");
    assert!(
        catalog.contains(&format!(
            "-- {}\nSubject: pawd is ready",
            ready["MESSAGE_ID"]
        )),
        "{ready:?}"
    );
    assert_eq!(
        (
            ready["SYSLOG_IDENTIFIER"].as_str(),
            ready["PRIORITY"].as_str()
        ),
        ("pawd", "6"),
        "{ready:?}"
    );
    assert!(ready["TOOK_MS"].parse::<u64>().is_ok(), "{ready:?}");
    assert_eq!(daemon.stderr(), "", "nothing is said twice");
}
