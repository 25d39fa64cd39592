//! What a pawd has on the host besides its files: counted before and after, so that what is left behind is seen.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use jsonrpsee::async_client::Client;
use paw_api::system::SystemRpcClient;

use crate::{standalone::Standalone, within};

/// Everything that a sandbox could leave on the host. Two of them are equal when nothing was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Processes, by their programs.
    pub processes: BTreeMap<String, usize>,
    /// Mounts below the root, in the host's mount namespace and in those of the launcher and its doorkeeper.
    pub mounts: Vec<String>,
    /// Control groups of sandboxes.
    pub cgroups: Vec<PathBuf>,
    /// Open descriptors of each process that stays.
    pub descriptors: BTreeMap<String, usize>,
    /// Directories that the launcher keeps for sandboxes.
    pub directories: Vec<PathBuf>,
}

impl Standalone {
    /// What it has on the host now.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        let root = self.root.path().display().to_string();
        let (mut processes, mut descriptors) = (BTreeMap::new(), BTreeMap::new());
        let (mut directories, mut mounts) = (Vec::new(), Vec::new());
        let mut mounted = |whose: &str| {
            let text = fs::read_to_string(format!("/proc/{whose}/mountinfo")).unwrap_or_default();
            let ours = text.lines().filter(|line| line.contains(&root));
            mounts.extend(ours.map(|line| format!("{whose}: {line}")));
        };
        mounted("self");
        for one in self.seen() {
            let name = name_of(&one.command).to_owned();
            let open = fs::read_dir(format!("/proc/{}/fd", one.pid)).map_or(0, Iterator::count);
            *processes.entry(name.clone()).or_default() += 1;
            *descriptors.entry(name.clone()).or_default() += open;
            if name.starts_with("paw-launcher") {
                mounted(&one.pid.to_string());
            }
            if name == "paw-launcher" {
                // It keeps them in a mount namespace of its own; the doorkeeper, of the same name, has another one.
                let seen = format!("/proc/{}/root{root}/launcher/bundles", one.pid);
                directories.extend(entries(Path::new(&seen)));
            }
        }
        Footprint {
            processes,
            mounts,
            cgroups: self.sandbox_groups(),
            descriptors,
            directories,
        }
    }

    /// Waits until it has on the host what it had `before`. A connection that was just closed, or a group that the kernel still
    /// holds, is no leak; each look comes after an answer of pawd, so nothing here only waits.
    ///
    /// # Panics
    /// When it does not come to that; what is left is shown.
    pub async fn has_left_nothing_since(&self, before: &Footprint, client: &Client) {
        let same = async {
            while self.footprint() != *before {
                client.ping().await.expect("pawd answers");
            }
        };
        if tokio::time::timeout(std::time::Duration::from_secs(20), same)
            .await
            .is_err()
        {
            assert_eq!(&self.footprint(), before, "something was left behind");
        }
    }

    /// What it has once nothing of an earlier command is on its way out any more: nothing of a sandbox, and the same twice, an
    /// answer of pawd in between.
    ///
    /// # Panics
    /// When it does not come to rest.
    pub async fn settled(&self, client: &Client) -> Footprint {
        within("coming to rest", async {
            let mut last = self.footprint();
            loop {
                client.ping().await.expect("pawd answers");
                let now = self.footprint();
                let of_sandboxes = now.cgroups.len() + now.directories.len();
                if now == last && of_sandboxes == 0 {
                    return now;
                }
                last = now;
            }
        })
        .await
    }
}

fn name_of(command: &str) -> &str {
    let program = command.split(' ').next().unwrap_or_default();
    program.rsplit('/').next().unwrap_or_default()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
