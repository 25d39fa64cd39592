//! What the kernel promises, tried on the real thing: root, the real launcher, real sandboxes.
//!
//! A helper tries the forbidden thing, and the test sees it fail, from outside. Where this cannot run, each test says why.

mod bad_input;
mod canary;
mod confinement;
mod crash;
mod egress;
mod fetch;
mod floods;
mod full;
mod groups;
mod images;
mod journal;
mod lifecycle;
mod mcp;
mod methods;
mod mounts;
mod needs;
mod pool;
mod probes;
mod prying;
mod roles;
mod sandbox;
mod scale;
mod secrets;
mod shim;
mod skills;
mod sockets;
mod terminals;
mod turns;
mod walls;
mod witness;
mod workspace;

use std::{fs, process::ExitCode};

use harness::report::run;

fn main() -> ExitCode {
    let mut cases = roles::cases();
    cases.extend(methods::cases());
    cases.extend(floods::cases());
    cases.extend(journal::cases());
    cases.extend(confinement::cases());
    cases.extend(sandbox::cases());
    cases.extend(groups::cases());
    cases.extend(images::cases());
    cases.extend(lifecycle::cases());
    cases.extend(bad_input::cases());
    cases.extend(pool::cases());
    cases.extend(secrets::cases());
    cases.extend(workspace::cases());
    cases.extend(shim::cases());
    cases.extend(skills::cases());
    cases.extend(sockets::cases());
    cases.extend(mounts::cases());
    cases.extend(terminals::cases());
    cases.extend(turns::cases());
    cases.extend(mcp::cases());
    cases.extend(probes::cases());
    cases.extend(prying::cases());
    cases.extend(walls::cases());
    cases.extend(witness::cases());
    cases.extend(scale::cases());
    cases.extend(egress::cases());
    cases.extend(canary::cases());
    cases.extend(needs::cases());
    cases.extend(fetch::cases());
    cases.extend(full::cases());
    cases.extend(crash::cases());
    run(cases)
}

/// Why a test that must be somebody else cannot run here.
fn without_root() -> Option<String> {
    (!nix::unistd::geteuid().is_root()).then(|| "needs root".to_owned())
}

/// Why a test that makes sandboxes cannot run here.
fn without_sandboxes() -> Option<String> {
    if let Some(reason) = without_root() {
        return Some(reason);
    }
    let list = fs::read_to_string("/sys/kernel/security/lsm").ok();
    if list
        .as_ref()
        .is_some_and(|list| !list.split(',').any(|name| name.trim() == "landlock"))
    {
        return Some("the kernel has no landlock".into());
    }
    if fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|max| max.trim() == "0") {
        return Some("user namespaces are switched off".into());
    }
    if !fs::metadata("/sys/fs/cgroup").is_ok_and(|facts| facts.is_dir()) {
        return Some("no control groups are mounted".into());
    }
    None
}
