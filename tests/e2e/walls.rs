//! What a wall is for, tried against what really stands behind it: in each runtime, sockets and directories of this very host.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::FileTypeExt as _,
            net::{SocketAddr, UnixListener},
        },
    },
    process::Command,
};

use harness::{cases, report::Case, standalone::Standalone};
use serde_json::{Value, json};

use crate::{
    probes::{program, without_gvisor},
    shim::without_shim,
    without_sandboxes,
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = cases![
        without_sandboxes;
        abstract_socket_of_the_host_cannot_be_reached,
        sockets_and_directories_of_pawd_cannot_be_reached,
        processor_time_beyond_the_share_is_not_given,
        view_of_the_host_is_its_usr_and_nothing_else,
    ];
    cases.extend(cases![
        without_gvisor;
        what_is_shipped_runs_in_gvisor_unasked_and_in_nothing_weaker,
        abstract_socket_of_the_host_cannot_be_reached_from_gvisor,
        sockets_and_directories_of_pawd_cannot_be_reached_from_gvisor,
        processor_time_beyond_the_share_is_not_given_in_gvisor,
        view_of_the_host_is_its_usr_and_nothing_else_in_gvisor,
        every_byte_passes_unchanged_through_gvisor,
    ]);
    cases.extend(cases![
        without_shim;
        abstract_socket_of_the_host_cannot_be_reached_through_a_shim,
        sockets_and_directories_of_pawd_cannot_be_reached_through_a_shim,
        processor_time_beyond_the_share_is_not_given_through_a_shim,
        view_of_the_host_is_its_usr_and_nothing_else_through_a_shim,
    ]);
    cases
}

async fn with(runtime: &str) -> Standalone {
    if runtime == "kata" {
        Standalone::start_with_shim("").await
    } else {
        Standalone::start("").await
    }
}

/// What the program says in a sandbox, line by line.
async fn inside(system: &Standalone, runtime: &str, words: &[&str]) -> Vec<String> {
    let run = ["sandbox", "run", "--runtime", runtime, "--image", "probe"];
    let output = system
        .pawctl(&[&run[..], &["--", "/bin/paw-probe"], words].concat())
        .await;
    assert!(output.status.success(), "{output:?}");
    lines(&output.stdout)
}

/// What it says on the host, as root.
fn outside(words: &[&str]) -> Vec<String> {
    let output = Command::new(program())
        .args(words)
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{output:?}");
    lines(&output.stdout)
}

fn lines(said: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(said);
    text.lines().map(str::to_owned).collect()
}

async fn reach_an_abstract_socket(runtime: &str) {
    let name = format!("paw-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("it is short");
    let listener = UnixListener::bind_addr(&address).expect("the name is free");
    let words = ["abstract", name.as_str()];
    assert_eq!(outside(&words), ["it worked"]);
    let system = with(runtime).await;
    let said = inside(&system, runtime, &words).await;
    // It is in another network namespace, and landlock does not let anybody look further than the sandbox.
    let held = ["ECONNREFUSED", "EPERM"];
    assert!(
        said.len() == 1 && held.contains(&said[0].as_str()),
        "{said:?}"
    );
    drop(listener);
}

async fn abstract_socket_of_the_host_cannot_be_reached() {
    reach_an_abstract_socket("native").await;
}

async fn abstract_socket_of_the_host_cannot_be_reached_from_gvisor() {
    reach_an_abstract_socket("gvisor").await;
}

async fn abstract_socket_of_the_host_cannot_be_reached_through_a_shim() {
    reach_an_abstract_socket("kata").await;
}

/// Says what is to be seen of this host beside its programs, and whether it can be changed.
const LOOK: &str = "for it in /etc/shadow /etc/machine-id /etc/ssh /root/* /home/* /boot /opt /srv /var/lib/dpkg /var/log; do \
    test -e \"$it\" && echo \"seen $it\"; done; touch /usr/bin/paw-was-here 2>/dev/null && echo written; \
    test -x /usr/bin/dpkg && cmp -s /usr/bin/dpkg /usr/bin/dpkg && echo programs";

async fn look_at_the_host(runtime: &str) {
    let system = with(runtime).await;
    let words = [
        "sandbox",
        "run",
        "--runtime",
        runtime,
        "--image",
        "host",
        "--",
        "/bin/sh",
        "-c",
        LOOK,
    ];
    let output = system.pawctl(&words).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(lines(&output.stdout), ["programs"]);
    assert!(!fs::exists("/usr/bin/paw-was-here").expect("it can be looked for"));
}

async fn view_of_the_host_is_its_usr_and_nothing_else() {
    look_at_the_host("native").await;
}

async fn view_of_the_host_is_its_usr_and_nothing_else_in_gvisor() {
    look_at_the_host("gvisor").await;
}

async fn view_of_the_host_is_its_usr_and_nothing_else_through_a_shim() {
    look_at_the_host("kata").await;
}

/// The system under test has them elsewhere than an installed one, where the probes that are shipped look for them.
async fn reach_what_is_pawds(runtime: &str) {
    let system = with(runtime).await;
    let root = system.root.path().display().to_string();
    let below = |names: &[&str]| -> Vec<String> {
        let paths = names.iter().map(|name| format!("{root}/{name}"));
        paths.collect()
    };
    let run = fs::read_dir(system.root.path().join("run")).expect("it is there");
    let sockets: Vec<String> = run
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .map(|entry| entry.path().display().to_string())
        .collect();
    for name in ["control.sock", "launcher.sock", "egress.sock", "audit.sock"] {
        assert!(
            sockets.iter().any(|path| path.ends_with(name)),
            "{sockets:?}"
        );
    }
    let dirs = below(&["run", "etc", "state", "launcher"]);
    let words = |word, paths: &[String], prefix: &str| -> Vec<String> {
        let paths = paths.iter().map(|path| format!("{prefix}{path}"));
        std::iter::once(String::from(word)).chain(paths).collect()
    };
    // They are there, and somebody listens: only that some of them take packets and no stream is in the way.
    for said in outside(&strs(&words("connect", &sockets, ""))) {
        assert!(
            ["it worked", "EPROTOTYPE"].contains(&said.as_str()),
            "{said}"
        );
    }
    for said in outside(&strs(&words("list", &dirs, ""))) {
        assert!(said.ends_with(" entries"), "{dirs:?}: {said}");
    }
    for prefix in ["", "/proc/1/root", "/proc/self/root", "/proc/1/cwd"] {
        let asked = words("connect", &sockets, prefix);
        let said = inside(&system, runtime, &strs(&asked)).await;
        assert_eq!(said.len(), sockets.len(), "{said:?}");
        // It is not there, or not even looked for.
        let held =
            |said: &String| said == "ENOENT" || said == "EACCES" && prefix.starts_with("/proc/1");
        assert!(said.iter().all(held), "{asked:?}: {said:?}");
        let asked = words("list", &dirs, prefix);
        let said = inside(&system, runtime, &strs(&asked)).await;
        assert_eq!(said, vec!["none"; dirs.len()], "{asked:?}");
    }
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

async fn sockets_and_directories_of_pawd_cannot_be_reached() {
    reach_what_is_pawds("native").await;
}

async fn sockets_and_directories_of_pawd_cannot_be_reached_from_gvisor() {
    reach_what_is_pawds("gvisor").await;
}

async fn sockets_and_directories_of_pawd_cannot_be_reached_through_a_shim() {
    reach_what_is_pawds("kata").await;
}

fn result(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

async fn use_more_than_the_share(runtime: &str) {
    let system = with(runtime).await;
    let share = ["--cpus", "0.2", "--timeout", "4s", "--json-result"];
    let greedy = ["--", "sh", "-c", "while :; do :; done"];
    let run = ["sandbox", "run", "--runtime", runtime];
    let output = system.pawctl(&[&run[..], &share, &greedy].concat()).await;
    let result = result(&output);
    assert_eq!(result["timed_out"], json!(true), "{result}");
    let number = |name: &str| result[name].as_u64().expect("a number");
    assert!(number("cpu_throttled") > 0, "{result}");
    // A fifth, and what is given before it is measured.
    let (used, took) = (number("cpu_ms"), number("wall_ms"));
    assert!(used > 0 && used * 3 < took, "{used} ms of {took} ms");
}

async fn processor_time_beyond_the_share_is_not_given() {
    use_more_than_the_share("native").await;
}

async fn processor_time_beyond_the_share_is_not_given_in_gvisor() {
    use_more_than_the_share("gvisor").await;
}

async fn processor_time_beyond_the_share_is_not_given_through_a_shim() {
    use_more_than_the_share("kata").await;
}

async fn what_is_shipped_runs_in_gvisor_unasked_and_in_nothing_weaker() {
    let mut system = Standalone::start("").await;
    // What all other tests are given, so that they need no gVisor.
    let lowered = system.root.path().join("etc/pawd.d/00-isolation.toml");
    fs::remove_file(lowered).expect("it is there");
    let reloaded = system.pawctl(&["config", "reload"]).await;
    assert!(reloaded.status.success(), "{reloaded:?}");
    let run = ["sandbox", "run", "--json-result", "--", "true"];
    let output = system.pawctl(&run).await;
    let result = result(&output);
    assert_eq!(
        (
            &result["exit_code"],
            &result["runtime"],
            &result["attestation"]["facts"]["isolation"]
        ),
        (&json!(0), &json!("gvisor"), &json!("kernel")),
        "{result}"
    );
    // Where the administrator allows no gVisor, nothing takes its place.
    system.stop().await;
    let ceilings = system.root.path().join("etc/launcher.toml");
    let text = fs::read_to_string(&ceilings).expect("it is there");
    let native = text.replace("[\"native\", \"gvisor\"]", "[\"native\"]");
    assert_ne!(native, text);
    fs::write(&ceilings, native).expect("the root is ours");
    system.start_again().await;
    let output = system.pawctl(&run).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(said.contains("kernel"), "{said}");
}

async fn every_byte_passes_unchanged_through_gvisor() {
    let system = Standalone::start("").await;
    // Every value a thousand times, in many orders.
    let sent: Vec<u8> = (0..1_000_u32)
        .flat_map(|turn| (0..=u8::MAX).map(move |n| n.wrapping_mul(turn as u8 | 1)))
        .collect();
    for (script, is_stderr) in [("cat", false), ("cat >&2", true)] {
        let run = ["sandbox", "run", "--runtime", "gvisor", "--stdin"];
        let output = system
            .pawctl_with(&[&run[..], &["--", "sh", "-c", script]].concat(), &sent)
            .await;
        let (told, other) = if is_stderr {
            (output.stderr, output.stdout)
        } else {
            (output.stdout, output.stderr)
        };
        assert_eq!(output.status.code(), Some(0));
        assert!(
            told == sent && other.is_empty(),
            "{} bytes of {}, and {} others",
            told.len(),
            sent.len(),
            other.len()
        );
    }
}
