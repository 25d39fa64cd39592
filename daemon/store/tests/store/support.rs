//! Records to store, and places to store them in.

use std::{
    fs,
    path::Path,
    process::{Command, ExitStatus},
    sync::{PoisonError, RwLock},
};

use paw_policy::{
    ChatArguments, Decision, Digest, Kind, Operation, Plan, Risk, Role, State, Taint, TaintSet,
};
use paw_store::{
    ActionRecord, Batch, Caller, OPEN_STATES, OpenOptions, SessionRecord, Speaker, Store,
    StoreError, TurnRecord,
};
use uuid::Uuid;

/// A child has a copy of every descriptor, the lock of a store too, until it executes its program. So no store is opened while
/// another test of this process is starting a child.
static CHILDREN: RwLock<()> = RwLock::new(());

/// Starts a child, or runs one to its end, while no store is being opened.
pub(crate) fn apart<T>(start: impl FnOnce() -> T) -> T {
    let _nobody_opens = CHILDREN.write().unwrap_or_else(PoisonError::into_inner);
    start()
}

/// Runs a program to its end, while no store is being opened.
fn ran(command: &mut Command) -> std::io::Result<ExitStatus> {
    apart(|| command.status())
}

pub(crate) fn open(path: &Path) -> Store {
    try_open(path, options()).unwrap()
}

pub(crate) fn try_open(path: &Path, options: OpenOptions) -> Result<Store, StoreError> {
    let _nobody_starts = CHILDREN.read().unwrap_or_else(PoisonError::into_inner);
    Store::open(path, options)
}

pub(crate) fn options() -> OpenOptions {
    OpenOptions::new("1.2.3")
}

/// The version 7 id of this number: larger numbers are newer.
pub(crate) fn id(n: u64) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(n, &[7; 10]).into_uuid()
}

pub(crate) fn caller(uid: u32) -> Caller {
    Caller {
        uid,
        gid: uid,
        pid: 1,
        role: Role::User,
        name: None,
        unit: None,
    }
}

pub(crate) fn action(n: u64, state: State, session: Option<Uuid>, text: &str) -> ActionRecord {
    let plan = Plan {
        agent: "default".parse().unwrap(),
        session: session.map(|id| id.to_string()),
        operation: Operation::Chat(ChatArguments {
            text: text.to_owned(),
            provider: "local".parse().unwrap(),
            model: "small".to_owned(),
            route: None,
            fallbacks: Vec::new(),
            local_only: false,
            places: std::collections::BTreeMap::new(),
            schema: None,
            images: Vec::new(),
        }),
    };
    ActionRecord {
        id: id(n),
        digest: plan.digest().unwrap(),
        plan,
        kind: Kind::Chat,
        risk: Risk::Low,
        taint: TaintSet::of(Taint::User),
        decision: Decision::Allow,
        rules: vec!["chat".to_owned()],
        state,
        requested_by: caller(1000),
        approved_by: None,
        first_yes: None,
        created_ms: n,
        decided_ms: None,
        started_ms: None,
        ended_ms: None,
        expires_ms: None,
        deadline_ms: None,
        result: Some(serde_json::json!({"text": "ü\u{0}", "n": [1, 2.5, null]})),
        error: None,
        attestation: Some(Digest::of(b"x")),
        sandbox: None,
        wait_reason: None,
        attempts: Vec::new(),
        parent: None,
        circumstances: paw_policy::Circumstances::default(),
        interrupted: 0,
    }
}

pub(crate) fn session(n: u64, owner: u32) -> SessionRecord {
    SessionRecord {
        id: id(n),
        agent: "default".parse().unwrap(),
        owner_uid: owner,
        title: "t".to_owned(),
        created_ms: n,
        updated_ms: n,
        turns: 0,
        bytes: 0,
        taint: TaintSet::of(Taint::User),
        parent: None,
    }
}

pub(crate) fn turn(session: Uuid, seq: u64) -> TurnRecord {
    TurnRecord {
        session,
        seq,
        role: Speaker::User,
        text: format!("turn {seq}"),
        taint: TaintSet::of(Taint::User),
        action: None,
        provider: None,
        model: None,
        local: None,
        calls: Vec::new(),
        result_of: None,
        attempts: Vec::new(),
        at_ms: seq,
    }
}

/// Every action to which something can still happen, oldest first.
pub(crate) fn open_actions(store: &Store) -> Vec<ActionRecord> {
    let mut found = Vec::new();
    store
        .each_in(&OPEN_STATES, |record| found.push(record))
        .unwrap();
    found
}

pub(crate) fn put(store: &Store, action: &ActionRecord) {
    let mut batch = Batch::new();
    batch.put_action(action).unwrap();
    store.commit(&batch).unwrap();
}

pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A small file system of its own, gone with this value; `None`, said aloud, where one cannot be mounted.
pub(crate) struct Mounted(tempfile::TempDir);

impl Mounted {
    pub(crate) fn tmpfs(test: &str, size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=0700");
        let mounted = is_root()
            && ran(Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "paw-store-test"])
                .arg(directory.path()))
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!(
                "SKIPPED {test}: a tmpfs cannot be mounted here (it needs root and CAP_SYS_ADMIN)"
            );
            return None;
        }
        Some(Self(directory))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn remount(&self, how: &str) {
        let status = ran(Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(self.path()))
        .unwrap();
        assert!(status.success(), "remount {how}");
    }
}

/// A read-only view of a directory over the directory itself, so that what is opened anew cannot be written.
pub(crate) struct Covered<'a>(&'a Mounted);

impl<'a> Covered<'a> {
    pub(crate) fn read_only(disk: &'a Mounted) -> Self {
        for options in ["bind", "remount,bind,ro"] {
            let status = ran(Command::new("mount")
                .args(["-o", options])
                .arg(disk.path())
                .arg(disk.path()))
            .unwrap();
            assert!(status.success(), "mount -o {options}");
        }
        Self(disk)
    }
}

impl Drop for Covered<'_> {
    fn drop(&mut self) {
        let _ = ran(Command::new("umount").arg("-l").arg(self.0.path()));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, because a failed test may still have a file open there.
        let _ = ran(Command::new("umount").arg("-l").arg(self.path()));
    }
}
