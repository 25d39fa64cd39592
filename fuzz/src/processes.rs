//! What our own processes and what they start say to each other. Each believes nothing of the other.

use std::{cell::RefCell, os::fd::AsFd as _, sync::LazyLock};

use paw_api::audit::Event;
use paw_launch::{
    frame::{Credit, Exited, Hello, NotStarted, StdinTaken, Tag, VERSION, header},
    packet,
    request::{
        Image, Isolation, Limits, Message, Mount, MountSource, Numbered, Reply, Request, Runtime,
        SandboxPlan,
    },
    resume::{Nonce, Seeker},
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{json, to_vec};
use tokio::runtime;

thread_local! {
    static RUNTIME: RefCell<runtime::Runtime> =
        RefCell::new(runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"));
}

/// Runs something asynchronous to its end.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.with_borrow(|runtime| runtime.block_on(future))
}

/// What may be asked for at most.
static CEILINGS: LazyLock<paw_launcher::fuzz::Limits> = LazyLock::new(|| {
    let text = include_str!("../../daemon/launcher/launcher.toml");
    let text = text.replace("mount_prefixes = []", "mount_prefixes = [\"/srv/data\"]");
    paw_launcher::fuzz::ceilings(&text).expect("the shipped ceilings are good")
});

pub(crate) fn launcher(bytes: &[u8]) {
    if let Some(request) = through_a_socket::<Numbered>(bytes) {
        written_again(&request);
        paw_launcher::fuzz::request(request, &CEILINGS);
    }
    if let Some(message) = through_a_socket::<Message>(bytes) {
        written_again(&message);
    }
}

fn through_a_socket<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).ok()?;
    send(&theirs, bytes, SendFlags::NOSIGNAL).ok()?;
    packet::receive(ours.as_fd())
        .ok()
        .map(|received| received.message)
}

/// What was understood must be the same after it was written and read.
fn written_again<T: Serialize + DeserializeOwned + PartialEq>(message: &T) {
    let written = to_vec(message).expect("what was read can be written");
    let read: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert!(read == *message, "it is another message afterwards");
}

pub(crate) fn launcher_seeds() -> Vec<Vec<u8>> {
    let mount = |source, target: &str| Mount {
        source,
        target: target.into(),
        writable: false,
    };
    let plan = SandboxPlan {
        id: "0123456789abcdef".parse().expect("it is an id"),
        runtime: Runtime::Native,
        image: Image::Named("base".parse().expect("it is a name")),
        mounts: vec![
            mount(MountSource::Path("/srv/data/a".into()), "/data"),
            mount(
                MountSource::Skill("files".parse().expect("it is a name")),
                "/skill",
            ),
            mount(
                MountSource::Workspace("agent".parse().expect("it is a name")),
                "/workspace",
            ),
        ],
        limits: Limits {
            cpu_milli: 500,
            memory: 64 << 20,
            disk: 1 << 20,
            pids: 16,
            open_files: 64,
            wall_ms: 1000,
            io_weight: None,
        },
        floor: Isolation::Process,
    };
    let requests = [
        Request::Hello { version: 1 },
        Request::Create(Box::new(plan.clone())),
        Request::Prepare {
            plan: Box::new(plan.clone()),
            idle_ms: 1000,
        },
        Request::Kill { id: plan.id },
        Request::List,
    ];
    let mut seeds: Vec<Vec<u8>> = (1..)
        .zip(requests)
        .filter_map(|(seq, request)| to_vec(&Numbered { seq, request }).ok())
        .collect();
    let reply = Reply::Hello { version: 1, pid: 7 };
    seeds.extend(to_vec(&Message::Reply { seq: 1, reply }));
    seeds
}

pub(crate) fn sandbox(bytes: &[u8]) {
    block_on(pawd::sandbox::fuzz::frames(bytes));
}

fn frame(tag: Tag, child: u32, payload: &[u8]) -> Vec<u8> {
    [&header(payload.len(), tag, child)[..], payload].concat()
}

fn control(tag: Tag, child: u32, message: &impl Serialize) -> Vec<u8> {
    frame(tag, child, &to_vec(message).unwrap_or_default())
}

pub(crate) fn sandbox_seeds() -> Vec<Vec<u8>> {
    let hello = control(Tag::Hello, 0, &Hello { version: VERSION });
    let taken = StdinTaken {
        bytes: 7,
        closed: true,
    };
    let exited = Exited {
        code: Some(3),
        signal: None,
    };
    let not_started = NotStarted {
        errno: 2,
        step: "execve".to_owned(),
    };
    let listening = json!({ "errno": null });
    vec![
        [
            hello.clone(),
            frame(Tag::Stdout, 1, b"out"),
            frame(Tag::Stderr, 1, b"err"),
            control(Tag::StdinTaken, 1, &taken),
            control(Tag::Exited, 1, &exited),
        ]
        .concat(),
        // Only the outside says this.
        [
            hello.clone(),
            control(Tag::Resize, 1, &json!({ "rows": 24, "cols": 80 })),
        ]
        .concat(),
        [hello, control(Tag::NotStarted, 2, &not_started)].concat(),
        [
            control(Tag::EgressListen, 0, &listening),
            frame(Tag::EgressOpen, 5, b""),
            frame(Tag::EgressData, 5, b"GET / HTTP/1.1\r\n\r\n"),
            control(Tag::EgressTaken, 5, &json!({ "bytes": 3 })),
            frame(Tag::EgressEnd, 5, b""),
        ]
        .concat(),
        control(
            Tag::Credit,
            1,
            &Credit {
                stdout: 1,
                stderr: 1,
            },
        ),
    ]
}

const NONCE: Nonce = *b"nobody guesses !";

/// What a sandbox may have had to say before its answer, here in bytes.
const MOST: u64 = 64 * 1024;

pub(crate) fn resume(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let mut at_once = Seeker::new(&NONCE, MOST);
    let whole = at_once.take(bytes);
    let mut seeker = Seeker::new(&NONCE, MOST);
    let mut seen = 0;
    for piece in bytes.chunks(usize::from(*cut).max(1)) {
        seen += piece.len();
        match seeker.take(piece) {
            Ok(None) => {}
            Ok(Some((resumed, mut behind))) => {
                behind.extend_from_slice(&bytes[seen..]);
                let (same, rest) = whole
                    .expect("it is found where it comes at once")
                    .expect("it is found where it comes at once");
                assert!(
                    same == resumed && rest == behind,
                    "it depends on how it was cut"
                );
                return;
            }
            Err(_) => {
                assert!(whole.is_err(), "it depends on how it was cut");
                return;
            }
        }
    }
    assert!(matches!(whole, Ok(None)), "it depends on how it was cut");
}

pub(crate) fn resume_seeds() -> Vec<Vec<u8>> {
    let list = json!({ "children": [{ "number": 1, "stdout": 5, "stderr": 0, "stdin": 7, "takes_input": true }] });
    let payload = [&NONCE[..], &to_vec(&list).unwrap_or_default()].concat();
    let answer = frame(Tag::Resume, 0, &payload);
    vec![
        [&[7][..], &answer].concat(),
        [
            &[1][..],
            &frame(Tag::Stdout, 1, b"before"),
            &answer,
            b"after",
        ]
        .concat(),
        [&[200][..], &NONCE, &answer[..9], &answer].concat(),
    ]
}

pub(crate) fn shim(bytes: &[u8]) {
    paw_shim::fuzz::said(bytes, "0123456789abcdef");
}

pub(crate) fn shim_seeds() -> Vec<Vec<u8>> {
    let frame = |stream: u8, kind: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
        [&[0, 0, 0, length, 0, 0, 0, stream, kind, 0], payload].concat()
    };
    // A text field of protobuf: number, length, bytes.
    let text = |number: u8, text: &[u8]| {
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        [&[number << 3 | 2, length][..], text].concat()
    };
    let exit = [
        text(1, b"0123456789abcdef"),
        text(2, b"0123456789abcdef"),
        vec![3 << 3, 9, 4 << 3, 137, 1],
    ]
    .concat();
    let event = |topic: &[u8]| {
        let any = [text(1, b"containerd.events.TaskExit"), text(2, &exit)].concat();
        let envelope = [text(2, b"k8s.io"), text(3, topic), text(4, &any)].concat();
        let request = [
            text(1, b"containerd.services.events.ttrpc.v1.Events"),
            text(2, b"Forward"),
            text(3, &text(1, &envelope)),
        ]
        .concat();
        frame(1, 1, &request)
    };
    let answer = [text(1, &[8, 0]), text(2, &[8, 7])].concat();
    let refused = text(1, &[&[8, 5][..], &text(2, b"not found")].concat());
    vec![
        event(b"/tasks/exit"),
        event(b"/tasks/oom"),
        [frame(1, 2, &answer), frame(3, 2, b"")].concat(),
        frame(1, 2, &refused),
    ]
}

pub(crate) fn audit_request(bytes: &[u8]) {
    if let Ok(append) = paw_audit::fuzz::request(bytes) {
        assert!(append.record.event != Event::LogRecovered);
        let written = to_vec(&append).expect("what was read can be written");
        let again = paw_audit::fuzz::request(&written).expect("what was written can be read");
        assert!(
            to_vec(&again).ok() == Some(written),
            "it is another record afterwards"
        );
    }
}

pub(crate) fn audit_request_seeds() -> Vec<Vec<u8>> {
    [
        json!({ "seq": 1, "durable": true, "record": { "event": "daemon_started", "detail": { "version": "1" } } }),
        json!({ "seq": 2, "durable": false, "record": { "event": "action_approved", "actor": { "uid": 1000, "gid": 1000, "pid": 7, "role": "approver" },
            "action": "01890000-0000-7000-8000-000000000000", "kind": "chat", "agent": "default", "outcome": "ok" } }),
    ]
    .iter()
    .filter_map(|seed| to_vec(seed).ok())
    .collect()
}
