//! The hostile probes that are shipped, in each runtime that is here.

use std::path::Path;

use harness::{cases, report::Case, standalone::Standalone};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = cases![without_sandboxes; every_probe_is_held_natively];
    cases.extend(cases![without_gvisor; every_probe_is_held_by_gvisor]);
    cases
}

fn without_gvisor() -> Option<String> {
    without_sandboxes().or_else(|| {
        (!Path::new("/usr/bin/runsc").exists())
            .then(|| "/usr/bin/runsc is missing: apt-get install runsc".to_owned())
    })
}

/// At least so many things are tried in a runtime; fewer would be a report that was cut off.
const LEAST: usize = 52;

/// What the doctor says after it tried everything in every runtime, which takes a while.
async fn proved() -> &'static Value {
    static TOLD: OnceCell<Value> = OnceCell::const_new();
    TOLD.get_or_init(|| async {
        let system = Standalone::start("").await;
        let output = system
            .pawctl(&["doctor", "--prove", "-o", "json", "--timeout", "120s"])
            .await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    })
    .await
}

async fn held(runtime: &str) {
    let told = proved().await;
    let probes: Vec<&Value> = told["probes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|probe| probe["runtime"] == runtime)
        .collect();
    let fallen: Vec<&&Value> = probes.iter().filter(|probe| probe["ok"] != true).collect();
    assert!(fallen.is_empty(), "{fallen:#?}");
    assert!(
        probes.len() >= LEAST,
        "{} probes in {runtime}",
        probes.len()
    );
}

async fn every_probe_is_held_natively() {
    held("native").await;
}

async fn every_probe_is_held_by_gvisor() {
    held("gvisor").await;
}
