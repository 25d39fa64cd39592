//! A change is killed before each of its writes and syncs, one after the other: the vault opens with what was before or with what was
//! to be, and with exactly one key.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and what it found is printed"
)]

use std::{
    env, fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill, raise},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use paw_vault::{
    NewKey, Source, Unlock, Vault,
    key::{HostKey, RecoveryKey},
};

const NOW: u64 = 1_800_000_000_000;

/// So many kills at least.
const ROUNDS: usize = 500;

/// How long an older version can be used, in milliseconds.
const KEPT: u64 = 60_000;

/// What is killed.
const CHANGES: &[&str] = &[
    "init", "set", "rotate", "destroy", "revoke", "sweep", "remove", "allow", "rekey", "import",
    "guess",
];

fn key(byte: u8) -> HostKey {
    HostKey::parse(&[byte; 32]).unwrap()
}

fn main() {
    if let Ok(change) = env::var("PAW_KILLED") {
        let path = env::var("PAW_VAULT").unwrap();
        ptrace::traceme().unwrap();
        raise(Signal::SIGSTOP).unwrap();
        make(&change, Path::new(&path));
        println!("done");
        std::io::stdout().flush().unwrap();
        return;
    }
    let filter: Vec<String> = env::args()
        .skip(1)
        .filter(|it| !it.starts_with('-'))
        .collect();
    let name = "change_killed_anywhere_is_done_or_not_begun";
    if env::args().any(|it| it == "--list") {
        println!("{name}: test");
        return;
    }
    if !filter.is_empty() && !filter.iter().any(|it| name.contains(it.as_str())) {
        println!("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out");
        return;
    }
    let rounds = change_killed_anywhere_is_done_or_not_begun();
    println!("test {name} ... ok ({rounds} kills)");
    println!("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}

/// One change, in the process that is killed.
fn make(change: &str, path: &Path) {
    let vault = Vault::at(path).unwrap();
    if change != "init" && change != "guess" {
        vault.unseal(&Unlock::Host(&key(1)), NOW).unwrap();
    }
    match change {
        "init" => drop(vault.init(&NewKey::Host(&key(1), Source::File)).unwrap()),
        "set" => drop(vault.set("new", b"new", NOW).unwrap()),
        "rotate" => drop(vault.rotate("a", b"two", KEPT, NOW).unwrap()),
        "destroy" => drop(vault.rotate("a", b"two", 0, NOW).unwrap()),
        "revoke" => drop(vault.revoke("a", 1).unwrap()),
        "sweep" => drop(vault.sweep(NOW + KEPT).unwrap()),
        "remove" => drop(vault.remove("a").unwrap()),
        "allow" => drop(
            vault
                .let_use("a", &"agent:x".parse().unwrap(), true)
                .unwrap(),
        ),
        "rekey" => drop(vault.rekey(&NewKey::Host(&key(2), Source::File)).unwrap()),
        "import" => {
            let copy = fs::read(copy_beside(path)).unwrap();
            let with = Unlock::Host(&key(1));
            let _ = vault.import(&copy, &with, |_| 0, true).unwrap();
        }
        "guess" => drop(vault.unseal(&Unlock::Recovery(&other()), NOW).unwrap_err()),
        other => panic!("{other}"),
    }
}

/// Where an older copy of the vault is.
fn copy_beside(path: &Path) -> PathBuf {
    path.with_extension("copy")
}

/// The recovery key of another vault.
fn other() -> RecoveryKey {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::at(&dir.path().join("vault.redb")).unwrap();
    vault.init(&NewKey::Host(&key(9), Source::File)).unwrap()
}

/// What somebody finds who opens the vault: which key opened it, and what is in it.
fn found(path: &Path) -> String {
    let vault = Vault::at(path).unwrap();
    let opens: Vec<u8> = (1..=2)
        .filter(|byte| {
            vault.seal();
            vault.unseal(&Unlock::Host(&key(*byte)), NOW).is_ok()
        })
        .collect();
    let [opened] = opens[..] else {
        return format!("{:?} opens with {opens:?}", vault.status().unwrap().state);
    };
    if opened == 1 {
        // The second key closed it again.
        vault.unseal(&Unlock::Host(&key(1)), NOW).unwrap();
    }
    let mut text = format!("key {opened}:");
    for secret in vault.secrets().unwrap() {
        let users = secret.users.len();
        text.push_str(&format!(" {} for {users}", secret.name));
        for version in &secret.versions {
            let value = vault.get(&secret.name, Some(version.number), NOW).unwrap();
            text.push_str(&format!(" {}", String::from_utf8_lossy(value.bytes())));
        }
    }
    text
}

/// Runs the change and kills it before its `at`th write; how many there were, and whether it said that it was done.
#[expect(
    clippy::zombie_processes,
    reason = "whoever traces a child waits for it by its id, as is done here to its end"
)]
fn killed_at(change: &str, path: &Path, at: usize) -> (usize, bool) {
    let mut child = Command::new(env::current_exe().unwrap())
        .env("PAW_KILLED", change)
        .env("PAW_VAULT", path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    waitpid(pid, None).unwrap();
    ptrace::setoptions(
        pid,
        ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL,
    )
    .unwrap();
    let (mut writes, mut entering, mut dead) = (0, true, false);
    loop {
        if !dead {
            ptrace::syscall(pid, None).unwrap();
        }
        match waitpid(pid, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => {
                if entering && is_write(pid) {
                    writes += 1;
                    if writes == at {
                        kill(pid, Signal::SIGKILL).unwrap();
                        dead = true;
                    }
                }
                entering = !entering;
            }
            WaitStatus::Exited(_, 0) | WaitStatus::Signaled(_, Signal::SIGKILL, _) => break,
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => panic!("{change} failed"),
            _ => {}
        }
    }
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    (writes, said == "done\n")
}

/// Whether a process is about to change a file, or to have one on the disk.
fn is_write(pid: Pid) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
    let number: Option<u32> = call.split(' ').next().and_then(|it| it.parse().ok());
    number.is_some_and(|number| WRITES.contains(&number))
}

/// write, pwrite64, fsync, fdatasync, ftruncate, fallocate, rename and its kin, unlink and its kin, open and openat.
#[cfg(target_arch = "x86_64")]
const WRITES: &[u32] = &[1, 18, 74, 75, 77, 285, 82, 264, 316, 87, 263, 2, 257];
#[cfg(target_arch = "aarch64")]
const WRITES: &[u32] = &[64, 68, 82, 83, 46, 47, 38, 276, 35, 56];

/// The test; how many kills it took.
fn change_killed_anywhere_is_done_or_not_begun() -> usize {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vault.redb");
    let clear = || {
        for file in fs::read_dir(dir.path()).unwrap() {
            let path = file.unwrap().path();
            if path != copy_beside(&path) {
                fs::remove_file(path).unwrap();
            }
        }
    };
    let vault = Vault::at(&path).unwrap();
    vault.init(&NewKey::Host(&key(1), Source::File)).unwrap();
    vault.set("a", b"zero", NOW).unwrap();
    fs::write(copy_beside(&path), vault.export().unwrap().0).unwrap();
    vault.rotate("a", b"one", KEPT, NOW).unwrap();
    vault.set("b", b"other", NOW).unwrap();
    drop(vault);
    let base = fs::read(&path).unwrap();
    let begin = |change: &str| {
        clear();
        if change != "init" {
            fs::write(&path, &base).unwrap();
        }
    };
    let mut rounds = 0;
    while rounds < ROUNDS {
        for change in CHANGES {
            begin(change);
            let before = found(&path);
            begin(change);
            let (writes, done) = killed_at(change, &path, 0);
            assert!(done, "{change} by itself");
            let after = found(&path);
            assert_ne!(
                *change != "guess",
                before == after,
                "{change}: {before}, then {after}"
            );
            for at in 1..=writes {
                begin(change);
                let (_, done) = killed_at(change, &path, at);
                let found = found(&path);
                assert!(
                    found == after || (found == before && !done),
                    "{change}, killed before write {at} of {writes}: {found}, and not {before} or {after}"
                );
                // Whatever was left of it does not keep the next change from being made.
                if found == before {
                    make(change, &path);
                }
                rounds += 1;
            }
        }
    }
    rounds
}
