//! Images that are added: taken in, run in, kept while somebody runs in them, and removed.

use std::{fs, io::Write as _, os::unix::fs::chown, path::Path};

use paw_launch::{
    image::{Added, ImageOrder, ImagePage, Origin, Swept},
    request::{Image, RefusalReason, Reply, Request, Runtime, SandboxPlan},
};
use serde::de::DeserializeOwned;

use super::gvisor::gvisor;
use crate::rig::{As, Client, Rig, UID, plan};

/// busybox as a plain root in an archive.
fn archive() -> fs::File {
    let mut file = tempfile::tempfile().unwrap();
    let mut archive = tar::Builder::new(&file);
    for (path, content) in [
        ("bin/busybox", fs::read("/bin/busybox").unwrap()),
        ("etc/greeting", b"hello from an image\n".to_vec()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        archive
            .append_data(&mut header, path, content.as_slice())
            .unwrap();
    }
    for name in ["sh", "cat", "id", "touch", "sleep"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive
            .append_link(&mut header, Path::new("bin").join(name), "busybox")
            .unwrap();
    }
    archive.finish().unwrap();
    drop(archive);
    file.flush().unwrap();
    file
}

fn ask<T: DeserializeOwned>(client: &mut Client, order: ImageOrder) -> T {
    match client.ask(Request::Image { order }).0 {
        Reply::Done { result } => serde_json::from_value(result).unwrap(),
        other => panic!("not done: {other:?}"),
    }
}

fn add(client: &mut Client, name: &str) -> Reply {
    let order = ImageOrder::Add {
        name: name.parse().unwrap(),
        origin: Origin::Directory,
    };
    client.ask_with(Request::Image { order }, archive()).0
}

fn added(client: &mut Client, name: &str) -> Added {
    match add(client, name) {
        Reply::Done { result } => serde_json::from_value(result).unwrap(),
        other => panic!("not added: {other:?}"),
    }
}

fn remove(client: &mut Client, name: &str) -> Swept {
    let name = name.parse().unwrap();
    ask(client, ImageOrder::Remove { name })
}

fn inside(plan: SandboxPlan, image: &str) -> SandboxPlan {
    SandboxPlan {
        image: Image::Named(image.parse().unwrap()),
        ..plan
    }
}

pub(crate) fn a_command_runs_in_an_added_image() {
    let rig = Rig::new();
    let mut client = rig.client();
    added(&mut client, "mine");
    let output = client.run(inside(plan(1), "mine"), &["cat", "/etc/greeting"]);
    assert_eq!(output.stdout, "hello from an image\n", "{output:?}");
    let output = client.run(
        inside(plan(2), "mine"),
        &["touch", "/etc/greeting", "/bin/new"],
    );
    assert_ne!(output.code, Some(0));
}

pub(crate) fn a_command_runs_in_an_added_image_by_gvisor() {
    let rig = Rig::new();
    let mut client = rig.client();
    added(&mut client, "mine");
    let plan = SandboxPlan {
        runtime: Runtime::Gvisor,
        ..gvisor(1)
    };
    let output = client.run(inside(plan, "mine"), &["cat", "/etc/greeting"]);
    assert_eq!(output.stdout, "hello from an image\n", "{output:?}");
}

pub(crate) fn an_image_stays_while_a_sandbox_runs_in_it() {
    let rig = Rig::new();
    let mut client = rig.client();
    let image = added(&mut client, "mine");
    let mut running = client.create(inside(plan(1), "mine"));
    assert_eq!(
        running.attestation.facts.root_digest,
        Some(image.digest),
        "what it runs in is told by its content"
    );
    let page: ImagePage = ask(&mut client, ImageOrder::List { after: None });
    let mine = page
        .images
        .iter()
        .find(|image| image.name.as_str() == "mine")
        .unwrap();
    assert_eq!(
        (mine.digest, mine.used_by.as_slice()),
        (Some(image.digest), &[running.id.clone()][..])
    );
    let swept = remove(&mut client, "mine");
    assert_eq!((swept.trees, swept.kept), (vec![], vec![image.digest]));
    assert_eq!(
        running.run(&["cat", "/etc/greeting"]).stdout,
        "hello from an image\n"
    );
    let refusal = client.refused(inside(plan(2), "mine"));
    assert_eq!(refusal.reason, RefusalReason::Missing);
    client.kill(&running.id);
    let swept: Swept = ask(&mut client, ImageOrder::Sweep);
    assert_eq!(swept.trees, [image.digest]);
    assert_eq!(
        (rig.state("images/trees"), rig.state("images/names")),
        (Vec::<String>::new(), Vec::new())
    );
}

pub(crate) fn an_added_image_hides_no_shipped_one() {
    let rig = Rig::new();
    let mut client = rig.client();
    let reply = add(&mut client, "busybox");
    assert!(
        matches!(&reply, Reply::Refused(refusal) if refusal.reason == RefusalReason::Ceiling),
        "{reply:?}"
    );
    let order = ImageOrder::Remove {
        name: "busybox".parse().unwrap(),
    };
    let reply = client.ask(Request::Image { order }).0;
    assert!(
        matches!(&reply, Reply::Refused(refusal) if refusal.reason == RefusalReason::Ceiling),
        "{reply:?}"
    );
}

pub(crate) fn an_image_outlives_the_launcher_and_half_of_one_does_not() {
    let mut rig = Rig::new();
    let image = added(&mut rig.client(), "mine");
    let half = rig.dir.path().join("state/images/trees/tmp-add-1/bin");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("sh"), "half").unwrap();
    // As if the job had made it, which is the launcher's user.
    for path in [&half.join("sh"), &half, half.parent().unwrap()] {
        chown(path, Some(UID), Some(UID)).unwrap();
    }
    rig.crash_and_restart(As::Root);
    added(&mut rig.client(), "again");
    assert_eq!(rig.state("images/trees"), [image.digest.to_string()]);
    let output = rig
        .client()
        .run(inside(plan(1), "mine"), &["cat", "/etc/greeting"]);
    assert_eq!(output.stdout, "hello from an image\n", "{output:?}");
}
