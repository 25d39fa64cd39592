//! What a stopped pawd leaves of itself in the hierarchies of control groups.

use std::path::{Path, PathBuf};

use harness::{
    cases,
    report::Case,
    standalone::{Standalone, gone, kill9},
};

use crate::without_sandboxes;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        without_version_one;
        stopped_pawd_leaves_no_control_group,
        control_groups_of_a_killed_pawd_are_taken_again_and_go_with_the_next_one,
    ]
}

/// Under version 2 the launcher itself is in the group, and stays in it to its end.
fn without_version_one() -> Option<String> {
    without_sandboxes().or_else(|| {
        Path::new("/sys/fs/cgroup/cgroup.controllers")
            .exists()
            .then(|| "this host has control groups of version 2".into())
    })
}

async fn stops_and_leaves_none(system: &mut Standalone) {
    let seen = system.seen();
    assert_eq!(system.stop().await, 0);
    // pawd may be a moment ahead of its helpers.
    for process in seen {
        assert!(gone(process.pid), "{process:?} goes on");
    }
    assert_eq!(system.groups(), Vec::<PathBuf>::new());
}

async fn stopped_pawd_leaves_no_control_group() {
    let mut system = Standalone::start("").await;
    let run = ["sandbox", "run", "--", "true"];
    assert!(system.pawctl(&run).await.status.success());
    let groups = system.groups();
    assert!(groups.len() >= 4, "one in each hierarchy: {groups:?}");
    stops_and_leaves_none(&mut system).await;
}

async fn control_groups_of_a_killed_pawd_are_taken_again_and_go_with_the_next_one() {
    let mut system = Standalone::start("").await;
    let launcher = system.processes().await["paw-launcher"];
    kill9(launcher);
    assert!(gone(launcher));
    system.daemon.end().await;
    assert!(
        !system.groups().is_empty(),
        "nobody was there to remove them"
    );
    system.start_again().await;
    let run = ["sandbox", "run", "--", "true"];
    assert!(system.pawctl(&run).await.status.success());
    stops_and_leaves_none(&mut system).await;
}
