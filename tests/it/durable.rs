//! The order of records and effects on the disk: what cannot be seen in a file, because the kernel shows what it has in memory, is seen
//! in what the real writer asks of the kernel.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use harness::{
    Pawd, Root, Setup, Traced, root,
    somebody::Guest,
    traced::Call,
    within,
    words::{answer, ask_to_write, finally, in_workspace, show},
};
use nix::libc::{
    SYS_accept4, SYS_fdatasync, SYS_fsync, SYS_sendmsg, SYS_sendto, SYS_write, SYS_writev,
};
use paw_api::{
    action::Answer,
    audit::{Answer as Says, Append, Entry, Event},
};
use paw_policy::State;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// After so long records are on the disk that nobody waits for; the writer promises 50 ms, and is traced here, beside other tests. A
/// signature, which would bring them there as well, comes after a second.
const SOON: Duration = Duration::from_millis(600);

/// A connection to the writer, as pawd has one.
struct Door {
    to: OwnedWriteHalf,
    from: Lines<BufReader<OwnedReadHalf>>,
    seq: u64,
    _guest: Option<Guest>,
}

impl Door {
    async fn of(root: &Root) -> Self {
        let socket = root.path().join("run/audit.sock");
        let (stream, guest) = if nix::unistd::geteuid().is_root() {
            let program = Path::new(env!("CARGO_BIN_EXE_be-somebody"));
            let (uid, gid) = (root::uid(), root::gid());
            let (stream, guest) = Guest::connect(program, &socket, uid, gid, &[]);
            (stream, Some(guest))
        } else {
            (UnixStream::connect(socket).await.unwrap(), None)
        };
        let (from, to) = stream.into_split();
        Self {
            to,
            from: BufReader::new(from).lines(),
            seq: 0,
            _guest: guest,
        }
    }

    /// Has a record appended, and waits for the answer.
    async fn append(&mut self, durable: bool) {
        self.seq += 1;
        let append = Append {
            seq: self.seq,
            durable,
            record: Entry::new(Event::JobAdded),
        };
        let line = serde_json::to_string(&append).unwrap() + "\n";
        self.to.write_all(line.as_bytes()).await.unwrap();
        loop {
            let line = within("an answer", self.from.next_line()).await.unwrap();
            let said: Says = serde_json::from_str(&line.expect("it stays open")).unwrap();
            match said {
                Says::Appended(appended) if appended.seq == self.seq => return,
                Says::Hello(_) | Says::Signed(_) | Says::Room => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The descriptor of the log among these calls: the only one that is both written to and synced, because everything else that the
/// writer has on the disk is written as a whole, or in place.
fn log_of(calls: &[Call]) -> u64 {
    let of = |number: i64| -> BTreeSet<u64> {
        let calls = calls.iter().filter(|call| call.number == number);
        calls.map(|call| call.first).collect()
    };
    let both: Vec<u64> = of(SYS_write)
        .intersection(&of(SYS_fdatasync))
        .copied()
        .collect();
    let [log] = both[..] else {
        panic!("descriptors that are written to and synced: {both:?}");
    };
    log
}

/// Whether a call says something on the connection that was accepted last.
fn says(calls: &[Call], call: &Call) -> bool {
    let accepted = calls.iter().filter(|it| it.number == SYS_accept4);
    let connection = accepted.filter_map(|it| it.returned).rfind(|it| *it >= 0);
    [SYS_write, SYS_writev, SYS_sendto, SYS_sendmsg].contains(&call.number)
        && connection.is_some_and(|it| it.cast_unsigned() == call.first)
}

#[tokio::test]
async fn record_is_on_the_disk_before_the_answer_where_that_is_asked_for() {
    let root = Root::new();
    let audit = Traced::audit(&root);
    let mut door = Door::of(&root).await;
    for _ in 0..20 {
        door.append(true).await;
    }
    let calls = audit.calls();
    let log = log_of(&calls);
    let (mut unsynced, mut written, mut answers) = (false, 0, 0);
    for call in &calls {
        if call.number == SYS_write && call.first == log {
            (unsynced, written) = (true, written + 1);
        } else if [SYS_fsync, SYS_fdatasync].contains(&call.number) && call.first == log {
            // It had returned, as there is but one thread. Whole for the first line, with which a file is made.
            unsynced = false;
        } else if says(&calls, call) {
            answers += 1;
            assert!(!unsynced, "answer {answers}, after {written} writes");
        }
    }
    assert!(written >= 20 && answers >= 20, "{written}, {answers}");
}

#[tokio::test]
async fn record_that_nobody_waits_for_is_answered_at_once_and_is_on_the_disk_soon() {
    let root = Root::new();
    let audit = Traced::audit(&root);
    let mut door = Door::of(&root).await;
    // So that the log is known by what is done with it.
    door.append(true).await;
    let log = log_of(&audit.calls());
    let is_sync = |call: &Call| call.number == SYS_fdatasync && call.first == log;
    let (mut rounds, mut seen) = (0, 0);
    while seen < 5 {
        rounds += 1;
        assert!(rounds < 50, "the log is synced before each answer");
        let before = audit.calls().len();
        door.append(false).await;
        let synced = |calls: &[Call]| calls[before..].iter().any(is_sync);
        audit.until("the log is synced", synced).await;
        let calls = audit.calls();
        let since = &calls[before..];
        let place = |what: &dyn Fn(&Call) -> bool| since.iter().position(what).unwrap();
        let written = place(&|call| call.number == SYS_write && call.first == log);
        let answered = written
            + since[written..]
                .iter()
                .position(|call| says(&calls, call))
                .expect("it was answered");
        // What was there before was signed meanwhile, and synced for that: it says nothing of this one.
        if since[..answered].iter().any(is_sync) {
            continue;
        }
        seen += 1;
        let synced = place(&is_sync);
        let took = since[synced].began - since[written].began;
        assert!(took < SOON, "{took:?}");
    }
}

/// What happened by the records in the log, whether or not the disk has them.
fn events(root: &Root) -> Vec<String> {
    let log = root.path().join("log/audit.000001.log");
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter_map(|line| Some(line["entry"]["event"].as_str()?.to_owned()))
        .collect()
}

/// The writer stands before each sync, as long as a disk may take: what the records grant has not happened then.
#[tokio::test]
async fn nothing_that_a_record_grants_happens_before_the_record_is_on_the_disk() {
    let setup = Setup::new().without_audit();
    let root = setup.root();
    let audit = Traced::audit(&root);
    let pawd = Pawd::start_in(root, setup).await;
    let client = pawd.client().await;
    let asked = ask_to_write(&client, "note.txt", "remember the milk").await;
    let plans = || pawd.launcher.as_ref().unwrap().plans().len();
    let before = plans();
    let mut known = events(&pawd.root).len();
    audit.hold(SYS_fdatasync);
    let said = answer(&client, &asked.id, asked.digest, Answer::Approve);
    let (mut held, mut kept_back) = (0, Vec::new());
    let watch = async {
        loop {
            held += 1;
            audit.was_held(held).await;
            let all = events(&pawd.root);
            let new = all[known.min(all.len())..].to_vec();
            known = all.len();
            let granting =
                |event: &&String| *event == "action_approved" || *event == "action_started";
            let grants: Vec<String> = new.iter().filter(granting).cloned().collect();
            if !grants.is_empty() {
                // As much time as all of it takes otherwise.
                let began = Instant::now();
                let mut asked_again = 0;
                while asked_again < 50 && began.elapsed() < Duration::from_secs(1) {
                    let action = show(&client, &asked.id).await;
                    assert!(!action.state.is_final(), "{action:?}");
                    if grants.iter().any(|it| it == "action_approved") {
                        assert_eq!(action.state, State::WaitingApproval, "{action:?}");
                    }
                    assert_eq!(plans(), before, "a sandbox was asked for");
                    assert_eq!(in_workspace(&pawd, "note.txt"), None);
                    asked_again += 1;
                }
                kept_back.extend(grants);
            }
            let begun = kept_back.iter().any(|it| it == "action_started");
            if begun {
                audit.hold_no_more();
            }
            audit.go_on();
            if begun {
                break;
            }
        }
    };
    let (said, ()) = tokio::join!(said, watch);
    said.expect("it may be approved");
    let written = finally(&client, &asked.id).await;
    assert_eq!(written.state, State::Completed, "{written:?}");
    assert_eq!(
        in_workspace(&pawd, "note.txt").as_deref(),
        Some("remember the milk")
    );
    assert_eq!(kept_back, ["action_approved", "action_started"]);
}
