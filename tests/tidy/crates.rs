//! Who may use whom, over `cargo metadata`: our own crates, the ones that are walled off, and what a process may never contain.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    process::Command,
    sync::LazyLock,
};

use serde_json::Value;

use crate::{found, none, tree};

/// Our crates and which of ours each may use. A crate without a line here is a fault: its place has to be thought about.
const ARROWS: &[(&str, &[&str])] = &[
    ("paw-policy", &[]),
    ("paw-confine", &[]),
    ("paw-log", &[]),
    ("paw-llm", &[]),
    ("paw-skill", &[]),
    ("paw-fetch", &["paw-skill"]),
    ("paw-files", &["paw-skill"]),
    ("paw-memory", &["paw-skill"]),
    ("paw-shell", &["paw-skill"]),
    ("paw-api", &["paw-policy"]),
    ("paw-launch", &["paw-policy"]),
    ("paw-store", &["paw-policy"]),
    ("paw-vault", &["paw-confine"]),
    (
        "paw-audit",
        &["paw-api", "paw-confine", "paw-log", "paw-policy"],
    ),
    ("paw-egress", &["paw-api", "paw-confine", "paw-log"]),
    (
        "paw-launcher",
        &["paw-confine", "paw-launch", "paw-log", "paw-policy"],
    ),
    ("paw-create", &["paw-confine", "paw-launch", "paw-log"]),
    ("paw-job", &["paw-confine", "paw-launch"]),
    (
        "paw-image",
        &["paw-confine", "paw-job", "paw-launch", "paw-policy"],
    ),
    (
        "paw-kata",
        &["paw-confine", "paw-launch", "paw-launcher", "paw-log"],
    ),
    (
        "paw-workspace",
        &["paw-confine", "paw-job", "paw-launch", "paw-policy"],
    ),
    ("paw-init", &["paw-launch"]),
    ("paw-probe", &["paw-confine"]),
    (
        "pawd",
        &[
            "paw-api",
            "paw-audit",
            "paw-confine",
            "paw-launch",
            "paw-llm",
            "paw-log",
            "paw-policy",
            "paw-store",
            "paw-vault",
        ],
    ),
    ("pawctl", &["paw-api", "paw-audit", "paw-log", "paw-policy"]),
    ("xtask", &["paw-log", "pawctl"]),
    // It holds every reader of foreign bytes, and is in no program that ships.
    (
        "paw-fuzz",
        &[
            "paw-api",
            "paw-audit",
            "paw-egress",
            "paw-image",
            "paw-kata",
            "paw-launch",
            "paw-launcher",
            "paw-llm",
            "paw-policy",
            "paw-store",
            "paw-vault",
            "pawd",
        ],
    ),
    (
        "paw-tests",
        &[
            "paw-api",
            "paw-audit",
            "paw-confine",
            "paw-launch",
            "paw-policy",
            "paw-store",
            "paw-vault",
        ],
    ),
];

/// Crates that live behind one of ours, and the few that may name them.
const WALLS: &[(&str, &[&str])] = &[
    ("redb", &["paw-store", "paw-vault"]),
    ("reqwest", &["paw-llm"]),
    ("libcontainer", &["paw-create"]),
    ("landlock", &["paw-confine"]),
    ("seccompiler", &["paw-confine"]),
    ("cedar-policy", &["paw-policy"]),
    ("tracing-subscriber", &["paw-log"]),
    ("tracing-journald", &["paw-log"]),
    ("ed25519-dalek", &["paw-audit"]),
    ("chacha20poly1305", &["paw-vault"]),
    ("argon2", &["paw-vault"]),
    ("cgroups-rs", &["paw-launcher"]),
    ("containerd-shim-protos", &["paw-kata"]),
];

/// What a program must not contain, however deep below it: an async runtime, TLS, HTTP or a database in a process that
/// makes sandboxes, and anything at all of the control socket.
const NEVER: &[(&str, &[&str])] = &[
    (
        "paw-launcher",
        &[
            "tokio",
            "hyper",
            "reqwest",
            "rustls",
            "redb",
            "jsonrpsee",
            "paw-api",
            "paw-store",
            "paw-llm",
        ],
    ),
    (
        "paw-create",
        &[
            "tokio",
            "hyper",
            "reqwest",
            "rustls",
            "redb",
            "jsonrpsee",
            "paw-api",
            "paw-store",
            "paw-llm",
        ],
    ),
    (
        "paw-image",
        &[
            "tokio",
            "hyper",
            "reqwest",
            "rustls",
            "redb",
            "jsonrpsee",
            "paw-api",
            "paw-store",
            "paw-llm",
            "tracing",
        ],
    ),
    (
        "paw-kata",
        &[
            "tokio",
            "hyper",
            "reqwest",
            "rustls",
            "redb",
            "jsonrpsee",
            "paw-api",
            "paw-store",
            "paw-llm",
        ],
    ),
    (
        "paw-init",
        &[
            "tokio",
            "hyper",
            "reqwest",
            "rustls",
            "redb",
            "jsonrpsee",
            "paw-api",
            "paw-store",
            "paw-llm",
            "tracing",
            "paw-policy",
        ],
    ),
    (
        "paw-policy",
        &[
            "tokio",
            "hyper",
            "reqwest",
            "redb",
            "nix",
            "paw-api",
            "paw-store",
        ],
    ),
    // Its words come with jsonrpsee's traits, and those name a runtime that it never starts.
    (
        "paw-audit",
        &["hyper", "reqwest", "redb", "paw-store", "paw-llm"],
    ),
    (
        "paw-egress",
        &["reqwest", "redb", "paw-store", "paw-llm", "paw-launch"],
    ),
    (
        "pawctl",
        &["redb", "reqwest", "libcontainer", "paw-store", "paw-llm"],
    ),
];

/// Normal and build dependencies by package name: those named in its manifest, and the graph below.
struct Graph {
    ours: BTreeSet<String>,
    direct: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn read(metadata: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let names: BTreeMap<String, String> = list(&metadata["packages"])
            .iter()
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        let ours = list(&metadata["workspace_members"])
            .iter()
            .map(|id| names[&text(id)].clone())
            .collect();
        let direct = list(&metadata["resolve"]["nodes"])
            .iter()
            .map(|node| {
                let used = list(&node["deps"])
                    .iter()
                    .filter(|dep| {
                        list(&dep["dep_kinds"])
                            .iter()
                            .any(|kind| kind["kind"] != "dev")
                    })
                    .map(|dep| names[&text(&dep["pkg"])].clone())
                    .collect();
                (names[&text(&node["id"])].clone(), used)
            })
            .collect();
        Self { ours, direct }
    }

    fn of(&self, package: &str) -> impl Iterator<Item = &String> {
        self.direct.get(package).into_iter().flatten()
    }
}

fn arrows(graph: &Graph) -> Vec<String> {
    let mut faults = Vec::new();
    for package in &graph.ours {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| name == package) else {
            faults.push(format!("{package} has no line in ARROWS"));
            continue;
        };
        faults.extend(
            graph
                .of(package)
                .filter(|used| graph.ours.contains(*used) && !allowed.contains(&used.as_str()))
                .map(|used| format!("{package} must not use {used}")),
        );
    }
    faults
}

fn walls(graph: &Graph) -> Vec<String> {
    let mut faults = Vec::new();
    for (walled, allowed) in WALLS {
        for package in graph
            .ours
            .iter()
            .filter(|package| !allowed.contains(&package.as_str()))
        {
            faults.extend(
                graph
                    .of(package)
                    .filter(|used| used == walled)
                    .map(|_| format!("{package} names {walled}; only {allowed:?} may")),
            );
        }
    }
    faults
}

fn never(program: &str, tree: &str) -> Vec<String> {
    let (_, forbidden) = NEVER
        .iter()
        .find(|(name, _)| *name == program)
        .expect("a program of the table");
    forbidden
        .iter()
        .filter_map(|name| way(tree, name))
        .map(|way| {
            format!(
                "{program} contains {}: {way}",
                way.rsplit(' ').next().unwrap_or_default()
            )
        })
        .collect()
}

/// The first way down to `wanted` in what `cargo tree --prefix=depth` printed.
fn way(tree: &str, wanted: &str) -> Option<String> {
    let mut above: Vec<&str> = Vec::new();
    for line in tree.lines() {
        let digits = line.find(|char: char| !char.is_ascii_digit())?;
        let name = line[digits..].split(' ').next()?;
        above.truncate(line[..digits].parse().ok()?);
        above.push(name);
        if name == wanted {
            return Some(above.join(" → "));
        }
    }
    None
}

/// What is linked into this program, with the features that it has when it is built alone.
fn linked(program: &str) -> String {
    run(&[
        "tree",
        "--offline",
        "--edges=normal,build",
        "--prefix=depth",
        "--package",
        program,
    ])
}

pub(crate) fn run(arguments: &[&str]) -> String {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(tree::root())
        .output()
        .expect("cargo started this test");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

fn this() -> &'static Graph {
    static GRAPH: LazyLock<Graph> = LazyLock::new(|| {
        // Crates that only other systems need were never fetched.
        let here = format!("{}-unknown-linux-gnu", env::consts::ARCH);
        let metadata = run(&[
            "metadata",
            "--format-version=1",
            "--offline",
            "--filter-platform",
            &here,
        ]);
        Graph::read(&serde_json::from_str(&metadata).expect("cargo metadata writes JSON"))
    });
    &GRAPH
}

fn example(ours: &[&str], direct: &[(&str, &[&str])]) -> Graph {
    Graph {
        ours: ours.iter().map(ToString::to_string).collect(),
        direct: direct
            .iter()
            .map(|(name, used)| {
                (
                    name.to_string(),
                    used.iter().map(ToString::to_string).collect(),
                )
            })
            .collect(),
    }
}

#[test]
fn our_crates_use_only_whom_they_may() {
    found(
        arrows(&example(
            &["paw-policy", "paw-api", "paw-new"],
            &[("paw-policy", &["paw-api"]), ("paw-api", &["paw-policy"])],
        )),
        2,
    );
    none(arrows(this()));
}

#[test]
fn dangerous_and_heavy_crates_stay_behind_their_walls() {
    found(
        walls(&example(
            &["pawd", "paw-store"],
            &[("pawd", &["redb", "reqwest"]), ("paw-store", &["redb"])],
        )),
        2,
    );
    none(walls(this()));
}

#[test]
fn sandbox_makers_contain_no_runtime_network_or_database() {
    let tree = "0paw-launcher v0\n1paw-log v0\n2regex v1\n2deep v2\n3tokio v1 (*)\n1nix v0\n";
    assert_eq!(
        never("paw-launcher", tree),
        ["paw-launcher contains tokio: paw-launcher → paw-log → deep → tokio"]
    );
    none(
        NEVER
            .iter()
            .flat_map(|(program, _)| never(program, &linked(program)))
            .collect(),
    );
}
