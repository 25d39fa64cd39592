//! Many: two hundred sandboxes at the same time, and many one after the other. Nothing of them stays.
//!
//! `PAW_SOAK_RUNS` says how many one after the other; `tests/bench/soak` asks for ten thousand.

#![allow(clippy::print_stdout, reason = "a long run says how it goes")]

use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use harness::{
    cases,
    report::Case,
    standalone::{Standalone, look},
    within,
};
use jsonrpsee::{async_client::Client, core::client::Subscription};
use paw_api::{
    sandbox::{RunEvent, RunSpec, SandboxRpcClient},
    system::SystemRpcClient,
};
use serde_json::{Value, json};

use crate::{probes::without_gvisor, without_sandboxes};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = cases![
        without_sandboxes;
        two_hundred_sandboxes_live_at_once_and_leave_nothing,
        many_runs_leave_nothing_behind,
    ];
    cases.extend(cases![without_gvisor; fifty_sandboxes_of_gvisor_live_at_once_and_leave_nothing]);
    cases
}

/// How many are asked for at the same moment; a machine with two processors makes them one after the other anyway.
const AT_ONCE: usize = 8;

/// How long making them all may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

fn spec(value: Value) -> RunSpec {
    serde_json::from_value(value).expect("the rest may be left out")
}

/// Begins a command and waits until its sandbox is there.
async fn begin(client: &Client, runtime: &str) -> (String, Subscription<RunEvent>) {
    let memory: u64 = if runtime == "gvisor" {
        96 << 20
    } else {
        16 << 20
    };
    let asked = spec(json!({
        "argv": ["sleep", "600"], "runtime": runtime, "memory": memory, "disk": 1 << 20, "pids": 8, "timeout_ms": 600_000
    }));
    let mut run = SandboxRpcClient::run(client, asked)
        .await
        .expect("it is accepted");
    loop {
        match run
            .next()
            .await
            .expect("it goes on")
            .expect("it can be read")
        {
            RunEvent::Started { id, .. } => return (id, run),
            RunEvent::Failed { message, error } => panic!("{message} {error:?}"),
            RunEvent::Waiting { .. }
            | RunEvent::Stdout { .. }
            | RunEvent::Stderr { .. }
            | RunEvent::Ended(_) => {}
        }
    }
}

async fn two_hundred_sandboxes_live_at_once_and_leave_nothing() {
    so_many_live_at_once("native", 200).await;
}

async fn fifty_sandboxes_of_gvisor_live_at_once_and_leave_nothing() {
    so_many_live_at_once("gvisor", 50).await;
}

async fn so_many_live_at_once(runtime: &str, many: usize) {
    let config =
        "[actions]\nconcurrency = 256\nbackground = 100\n[actions.at_once]\ntool_call = 256\n";
    let system = Standalone::start_for(config, 210).await;
    let client = system.client().await;
    drop(begin(&client, runtime).await);
    within("its end", async {
        while !SandboxRpcClient::list(&client)
            .await
            .expect("root may list")
            .is_empty()
        {}
    })
    .await;
    let before = system.settled(&client).await;

    let began = Instant::now();
    let (mut clients, mut running) = (Vec::new(), Vec::new());
    let making = async {
        while running.len() < many {
            // A connection has room for a few subscriptions, and is closed if nothing is said on it.
            let client = system.client().await;
            let begun = (0..AT_ONCE.min(many - running.len())).map(|_| begin(&client, runtime));
            running.extend(join_all(begun).await);
            clients.push(client);
        }
    };
    tokio::time::timeout(PATIENCE, making)
        .await
        .expect("they are made in time");
    println!("  {many} made in {:?}", began.elapsed());

    let listed = SandboxRpcClient::list(&client)
        .await
        .expect("root may list");
    let ids: BTreeSet<&str> = listed.iter().map(|one| one.id.as_str()).collect();
    assert_eq!((listed.len(), ids.len()), (many, many));
    // Each has a user of its own, lives, and is in a group of its own.
    let users: BTreeSet<u32> = listed
        .iter()
        .map(|one| look(one.pid).expect("it lives").uids[0])
        .collect();
    assert_eq!(users.len(), many);
    let groups: BTreeSet<String> = listed
        .iter()
        .map(|one| look(one.pid).expect("it lives").cgroup)
        .collect();
    assert_eq!(groups.len(), many);

    let began = Instant::now();
    let ending = join_all(running.into_iter().map(|(_, run)| run.unsubscribe()));
    tokio::time::timeout(PATIENCE, ending)
        .await
        .expect("they are ended in time");
    drop(clients);
    system.has_left_nothing_since(&before, &client).await;
    println!("  {many} ended in {:?}", began.elapsed());
}

async fn many_runs_leave_nothing_behind() {
    let runs: usize = env::var("PAW_SOAK_RUNS")
        .ok()
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(1000);
    // Few are remembered, so that what is kept of them reaches its bound within the first fifth.
    let system = Standalone::start("[actions]\nkeep = 100\n").await;
    let client = system.client().await;
    run_some(&client, 20).await;
    let (before, began) = (system.settled(&client).await, Instant::now());
    let first = Grown::of(&system, &client).await;
    println!("\n  {first}");
    let (mut half, mut filled) = (first.clone(), first.store);
    for part in 1..=10 {
        run_some(&client, runs.div_ceil(10)).await;
        let now = Grown::of(&system, &client).await;
        println!("  {now}  ({part} of 10, {:?})", began.elapsed());
        if part <= 2 {
            filled = filled.max(now.store);
        }
        if part == 5 {
            half = now;
        }
    }
    system.has_left_nothing_since(&before, &client).await;
    let last = Grown::of(&system, &client).await;
    assert_eq!(last.launcher_files, first.launcher_files);
    // What a first few hundred runs make grow has stopped growing by the second half.
    let second_half = |of: fn(&Grown) -> u64| of(&last).saturating_sub(of(&half));
    assert!(
        second_half(|grown| grown.launcher_rss) < 2 << 20
            && second_half(|grown| grown.pawd_rss) < 16 << 20,
        "{half}; {last}"
    );
    // What is kept of them has reached its bound. The file of the store doubles when it is full and shrinks when its end is free, so
    // it may be twice as large at one time as at another; were all of them kept, it would be five times what it was at a fifth.
    assert!(last.store <= 3 * filled, "{filled} bytes; {last}");
    // A group that was removed is held by the kernel while a page of a file that its processes read first is in the cache. The
    // same files are read again and again, so there are few.
    assert!(
        second_half(|grown| grown.kernel_groups) < 50 + runs as u64 / 50,
        "{half}; {last}"
    );
}

/// Runs so many commands, four at a time.
async fn run_some(client: &Client, runs: usize) {
    let one = async || {
        let mut run = SandboxRpcClient::run(
            client,
            spec(json!({"argv": ["sh", "-c", "echo said; echo left > /tmp/file; sleep 100 &"]})),
        )
        .await
        .expect("it is accepted");
        loop {
            let event = within("its end", run.next()).await;
            match event.expect("it goes on").expect("it can be read") {
                RunEvent::Ended(result) => {
                    assert_eq!(result.exit_code, Some(0), "{result:?}");
                    return;
                }
                RunEvent::Failed { message, .. } => panic!("{message}"),
                RunEvent::Waiting { .. }
                | RunEvent::Started { .. }
                | RunEvent::Stdout { .. }
                | RunEvent::Stderr { .. } => {}
            }
        }
    };
    for _ in 0..runs.div_ceil(4) {
        tokio::join!(one(), one(), one(), one());
    }
}

/// What could grow with every run and be no leak that can be counted.
#[derive(Debug, Clone)]
struct Grown {
    launcher_rss: u64,
    pawd_rss: u64,
    audit_rss: u64,
    /// Memory groups that the kernel has, also those that were removed and are held by something.
    kernel_groups: u64,
    launcher_files: u64,
    store: u64,
    log: u64,
}

impl Grown {
    async fn of(system: &Standalone, client: &Client) -> Self {
        let status = within("status", client.status()).await.expect("it answers");
        let rss = |name: &str| {
            status
                .processes
                .iter()
                .find(|process| process.name == name)
                .map_or(0, |process| process.rss)
        };
        let groups = fs::read_to_string("/proc/cgroups").unwrap_or_default();
        let root = system.root.path();
        Self {
            launcher_rss: rss("paw-launcher"),
            pawd_rss: rss("pawd"),
            audit_rss: rss("paw-audit"),
            kernel_groups: groups
                .lines()
                .find_map(|line| line.strip_prefix("memory\t"))
                .and_then(|rest| rest.split('\t').nth(1)?.parse().ok())
                .unwrap_or(0),
            launcher_files: size(&root.join("launcher")).1,
            store: size(&root.join("state")).0,
            log: size(&root.join("log")).0,
        }
    }
}

impl std::fmt::Display for Grown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kib = |bytes: u64| bytes / 1024;
        write!(
            f,
            "rss in KiB: launcher {} pawd {} audit {}; memory groups of the kernel {}; files of the launcher {}; bytes: store {} log {}",
            kib(self.launcher_rss),
            kib(self.pawd_rss),
            kib(self.audit_rss),
            self.kernel_groups,
            self.launcher_files,
            self.store,
            self.log
        )
    }
}

/// Bytes and files below a directory.
fn size(dir: &Path) -> (u64, u64) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.fold((0, 0), |(bytes, files), entry| {
        let Ok(found) = entry.path().symlink_metadata() else {
            return (bytes, files);
        };
        let (more, below) = if found.is_dir() {
            size(&entry.path())
        } else {
            (found.len(), 0)
        };
        (bytes + more, files + 1 + below)
    })
}
