//! What reaches the journal: a real pawd in a mount namespace in which we are the journal.

use std::{collections::BTreeMap, process::Command};

use harness::{
    Root, Running, cases, pawd,
    report::Case,
    root::{gid, uid},
    within,
};
use tokio::net::UnixDatagram;

use crate::without_root;

pub(crate) fn cases() -> Vec<Case> {
    cases![without_root; lifecycle_reaches_the_journal_with_its_fields]
}

/// Puts a directory of ours where the journal's socket is, says that stderr is the journal, and becomes pawd.
const SCRIPT: &str = r#"
mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind "$1" /run/systemd/journal || exit 99
JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); export JOURNAL_STREAM
shift
exec setpriv --reuid "$1" --regid "$2" --clear-groups "$3" --root "$4"
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

async fn lifecycle_reaches_the_journal_with_its_fields() {
    let root = Root::new();
    root.write("etc/pawd.toml", "");
    let place = root.path().join("journal");
    std::fs::create_dir(&place).expect("the root is ours");
    let journal = UnixDatagram::bind(place.join("socket")).expect("the root is ours");
    root.mode("journal/socket", 0o666);
    let _audit = pawd::start_audit(&root);
    let plain = pawd::command(&root);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", SCRIPT, "sh"]).arg(&place);
    command
        .args([uid().to_string(), gid().to_string()])
        .arg(plain.get_program())
        .arg(root.path());
    let daemon = Running::start("pawd", command);
    let ready = within("ready in the journal", async {
        let mut entry = vec![0; 64 * 1024];
        loop {
            let length = journal.recv(&mut entry).await.expect("the socket is ours");
            let fields = fields(&entry[..length]);
            if fields
                .get("MESSAGE")
                .is_some_and(|message| message == "ready")
            {
                return fields;
            }
        }
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
