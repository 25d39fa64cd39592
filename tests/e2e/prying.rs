//! Who may look into our processes: nobody who is not root, and no core file either.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::{
        fs::{FileExt as _, PermissionsExt as _},
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
};

use harness::{
    Root, Running, cases, pawd,
    pry::pry,
    report::Case,
    root::{NOBODY, gid, uid},
    standalone::{Seen, Standalone, gone, kill9, look},
};
use nix::{
    sys::{
        resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::{canary::done, egress::touched, without_root, without_sandboxes};

/// The processes of ours that know something, and live as long as pawd.
const OURS: [&str; 4] = ["pawd", "paw-audit", "paw-egress", "paw-launcher"];

/// Every way that `pry` tries.
const WAYS: [&str; 10] = [
    "attach", "auxv", "copy", "cwd", "environ", "fd", "maps", "mem", "seize", "stack",
];

pub(crate) fn cases() -> Vec<Case> {
    let mut all = cases![
        without_sandboxes;
        nobody_looks_into_a_process_of_ours_not_even_its_own_user,
        key_of_the_vault_is_in_locked_memory_alone,
    ];
    all.extend(cases![
        without_root;
        key_of_the_next_record_is_in_locked_memory_alone,
    ]);
    all.extend(cases![
        without_core_files;
        process_of_ours_that_crashes_leaves_no_core_file,
    ]);
    all
}

fn peek(as_whom: (u32, u32), pid: u32) -> Vec<(String, String)> {
    let program = Path::new(env!("CARGO_BIN_EXE_pry"));
    pry(program, as_whom, pid).into_iter().collect()
}

fn named<'a>(seen: &'a [Seen], name: &str) -> &'a Seen {
    let is = |process: &&Seen| {
        let program = process.command.split(' ').next();
        program.is_some_and(|it| it.ends_with(&format!("/{name}")))
    };
    seen.iter()
        .find(is)
        .unwrap_or_else(|| panic!("no {name} among {seen:#?}"))
}

async fn nobody_looks_into_a_process_of_ours_not_even_its_own_user() {
    let system = Standalone::start("").await;
    let seen = system.seen();
    // What is tried works on a process that does not forbid it; a kernel stack is for root alone.
    let mut sleeper = Command::new("sleep");
    sleeper.arg("600").uid(NOBODY).gid(NOBODY);
    let sleeper = Running::start("sleep", sleeper);
    let sleeper = u32::try_from(sleeper.pid()).expect("process ids are small");
    let nobody = (NOBODY, NOBODY);
    let answers = peek(nobody, sleeper);
    let ways: Vec<&str> = answers.iter().map(|(way, _)| way.as_str()).collect();
    assert_eq!(ways, WAYS);
    for (way, answer) in answers {
        assert!(answer == "ok" || way == "stack", "{way}: {answer}");
    }
    // Whoever is to look into a process has to have its group as well as its user.
    let account = |process: &Seen| (process.uids[0], process.gids[0]);
    let own = account(named(&seen, "pawd"));
    for name in OURS {
        let process = named(&seen, name);
        for whom in [account(process), own, nobody] {
            let answers = peek(whom, process.pid);
            let ways: Vec<&str> = answers.iter().map(|(way, _)| way.as_str()).collect();
            assert_eq!(ways, WAYS);
            for (way, answer) in &answers {
                assert!(
                    answer == "EACCES" || answer == "EPERM",
                    "user and group {whom:?} try {way} of {name}, which runs as {:?}: {answer}",
                    process.uids
                );
            }
        }
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid));
        let limits = limits.expect("root may read it");
        let core = limits
            .lines()
            .find(|it| it.starts_with("Max core file size"));
        let core: Vec<&str> = core.expect("it is there").split_whitespace().collect();
        assert_eq!(core[4..6], ["0", "0"], "{name}: {core:?}");
    }
    assert!(look(sleeper).is_some(), "it ran all the while");
}

/// The pages of a process, each range with what the kernel says of it.
fn pages(pid: i32) -> Vec<(usize, usize, BTreeSet<String>)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("root may read it");
    let mut all = Vec::new();
    let mut here = None;
    for line in text.lines() {
        let (first, _) = line.split_once(' ').unwrap_or((line, ""));
        let number = |text| usize::from_str_radix(text, 16).ok();
        if let Some((from, to)) = first.split_once('-')
            && let (Some(from), Some(to)) = (number(from), number(to))
        {
            here = Some((from, to));
        }
        if let (Some(flags), Some((from, to))) = (line.strip_prefix("VmFlags:"), here) {
            let flags = flags.split_whitespace().map(str::to_owned).collect();
            all.push((from, to, flags));
        }
    }
    all
}

/// The key that makes codes of records, with which whoever has an older one writes what came since anew.
async fn key_of_the_next_record_is_in_locked_memory_alone() {
    let root = Root::new();
    root.write("etc/pawd.toml", "");
    let audit = pawd::start_audit(&root);
    let _daemon = Running::unprivileged("pawd", pawd::command(&root));
    // Records were written, and what is on the disk is the key that it has.
    audit.says("audit log signed", 2).await;
    let saved = fs::read(root.path().join("audit/audit.next")).expect("root may read it");
    let keys: Vec<&[u8]> = [0, 4096]
        .into_iter()
        .map(|slot| &saved[slot..slot + 80])
        .filter(|slot| slot.starts_with(b"pak1"))
        .map(|slot| &slot[16..48])
        .collect();
    let [key] = keys[..] else {
        panic!("{} keys are on the disk", keys.len());
    };
    is_locked(audit.pid(), key);
}

/// What opens the vault is in such pages too, as it is and in the digits of its file, whether the vault was opened with it or is not yet made.
async fn key_of_the_vault_is_in_locked_memory_alone() {
    let uuids = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
    let digits: String = uuids.iter().map(|it| it.simple().to_string()).collect();
    let key = uuids.map(uuid::Uuid::into_bytes).concat();
    let mut system = Standalone::start_with("", false, &[("etc/vault.key", &digits)]).await;
    for made in [false, true] {
        if made {
            done(&system, &["secret", "init"], "").await;
            done(&system, &["secret", "set", "mail"], "a value").await;
            kill9(named(&system.seen(), "pawd").pid);
            system.start_again().await;
        }
        let pawd = named(&system.seen(), "pawd").pid.cast_signed();
        is_locked(pawd, &key);
        let found = found_in(pawd, digits.as_bytes());
        assert_eq!(open(&found), [], "its digits");
    }
}

/// A range of a process's memory in which bytes were found, so often.
struct Found {
    begin: usize,
    times: usize,
    /// Whether it is kept from swap, core files and children.
    locked: bool,
}

fn found_in(pid: i32, needle: &[u8]) -> Vec<Found> {
    let open = |name| fs::File::open(format!("/proc/{pid}/{name}")).expect("root may");
    let (memory, pagemap) = (open("mem"), open("pagemap"));
    let mut all = Vec::new();
    for (from, to, flags) in pages(pid) {
        let locked = ["lo", "dd", "wf"].iter().all(|it| flags.contains(*it));
        for (begin, length) in touched(&pagemap, from, to) {
            let mut bytes = vec![0; length];
            // What the kernel keeps for itself cannot be read.
            let read = memory.read_at(&mut bytes, begin as u64).unwrap_or(0);
            let times = memchr::memmem::find_iter(&bytes[..read], needle).count();
            all.extend((times > 0).then_some(Found {
                begin,
                times,
                locked,
            }));
        }
    }
    all
}

/// A process has these bytes, and has them in no memory but what is locked.
fn is_locked(pid: i32, key: &[u8]) {
    let found = found_in(pid, key);
    assert!(!found.is_empty(), "it is there");
    assert_eq!(open(&found), []);
}

/// Where something was found that is not locked, and how often.
fn open(found: &[Found]) -> Vec<(usize, usize)> {
    let open = found.iter().filter(|it| !it.locked);
    open.map(|it| (it.begin, it.times)).collect()
}

/// A directory for everybody, in which this process is, and with it what it starts; and no bound for core files.
struct Crashes {
    dir: tempfile::TempDir,
    before: PathBuf,
    limits: (u64, u64),
}

impl Crashes {
    fn here() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let all = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(dir.path(), all).expect("it is ours");
        let before = env::current_dir().expect("we are somewhere");
        let limits = getrlimit(Resource::RLIMIT_CORE).expect("it can be read");
        setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY).expect("root may");
        env::set_current_dir(dir.path()).expect("it is there");
        Self {
            dir,
            before,
            limits,
        }
    }

    /// What is in it.
    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path()).expect("it is ours");
        entries.flatten().map(|it| it.path()).collect()
    }
}

impl Drop for Crashes {
    fn drop(&mut self) {
        // The other tests go on where they were.
        let _ = env::set_current_dir(&self.before);
        let _ = setrlimit(Resource::RLIMIT_CORE, self.limits.0, self.limits.1);
    }
}

/// Whether a process that crashes leaves a core file on this host, if nobody forbids it.
fn without_core_files() -> Option<String> {
    if let Some(why) = without_sandboxes() {
        return Some(why);
    }
    let crashes = Crashes::here();
    let mut sleeper = Command::new("sh");
    sleeper.args(["-c", "kill -SEGV $$"]).uid(uid()).gid(gid());
    let ended = sleeper.status().expect("sh is there");
    (!ended.core_dumped() || crashes.files().is_empty())
        .then(|| format!("this host writes no core files where a program is: {ended}"))
}

async fn process_of_ours_that_crashes_leaves_no_core_file() {
    let crashes = Crashes::here();
    // The runtime of Rust takes the first SIGSEGV that nothing but a person caused for none; these two it leaves to the kernel.
    let signals = [Signal::SIGABRT, Signal::SIGILL].into_iter().cycle();
    for (name, signal) in OURS.into_iter().zip(signals) {
        let mut system = Standalone::start("").await;
        let pid = named(&system.seen(), name).pid;
        // Landlock keeps the file from being made, too, so that the limit is looked at by itself.
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
        let core = limits
            .lines()
            .find(|it| it.starts_with("Max core file size"));
        let words: Vec<&str> = core.expect("it is told").split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{name}: {core:?}");
        let number = Pid::from_raw(i32::try_from(pid).expect("process ids are small"));
        kill(number, signal).expect("it runs");
        assert!(gone(pid), "{name}");
        let ended = system.daemon.end().await;
        assert!(!ended.core_dumped(), "{name}: {ended}");
        if name == "pawd" {
            assert_eq!(ended.signal(), Some(signal as i32), "{ended}");
        }
        assert_eq!(crashes.files(), Vec::<PathBuf>::new(), "{name}");
    }
}
