//! What is refused: strangers, garbage, plans beyond a ceiling.

use std::{
    fs,
    io::IoSlice,
    mem::MaybeUninit,
    os::{fd::AsFd, unix::fs::symlink},
    path::PathBuf,
};

use paw_launch::{
    packet,
    request::{
        Image, Message, Mount, MountSource, RefusalReason, Reply, Request, SandboxPlan, VERSION,
    },
};

use crate::rig::{Client, Rig, Running, as_user, plan};

pub(crate) fn connection_of_another_user_is_closed() {
    let rig = Rig::new();
    let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.settimeout(20)\ns.connect(sys.argv[1])\n\
        try:\n s.send(b'{\"seq\":1,\"request\":\"hello\",\"version\":1}')\n print(len(s.recv(100)))\nexcept OSError:\n print('closed')";
    let path = rig.socket();
    let output = as_user(12345, "python3", &["-c", script, path.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said == "0\n" || said == "closed\n",
        "{said:?} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    rig.client();
}

pub(crate) fn request_before_hello_is_refused() {
    let rig = Rig::new();
    let mut client = rig.stranger();
    let reply = client.ask(Request::Create(Box::new(plan(1)))).0;
    assert!(matches!(reply, Reply::Refused(refusal) if refusal.reason == RefusalReason::Malformed));
    let reply = client
        .ask(Request::Hello {
            version: VERSION + 1,
        })
        .0;
    assert!(matches!(reply, Reply::Refused(refusal) if refusal.reason == RefusalReason::Malformed));
    assert_eq!(rig.leaves(), Vec::<PathBuf>::new());
}

pub(crate) fn garbage_is_refused_and_harms_nobody() {
    let rig = Rig::new();
    let mut bystander = rig.client();
    let running = bystander.create(plan(1));
    let client = rig.client();
    let mut junk = vec![
        b"{".to_vec(),
        b"\0\xff\xfe".to_vec(),
        b"[]".to_vec(),
        vec![b'['; 60_000],
        vec![b' '; packet::MAX_PACKET + 10],
    ];
    junk.push(br#"{"seq":1,"request":"create","id":"../../etc"}"#.to_vec());
    junk.push(br#"{"seq":1,"request":"kill","id":"0000000000000001","more":1}"#.to_vec());
    for bytes in &junk {
        raw(&client, bytes, &[]);
        let (message, _) = client.receive();
        assert!(
            matches!(&message, Message::Reply { reply: Reply::Refused(refusal), .. } if refusal.reason == RefusalReason::Malformed),
            "{message:?}"
        );
    }
    assert!(matches!(
        bystander.ask(Request::Status).0,
        Reply::Status { running: 1, .. }
    ));
    bystander.kill(&running.id);
}

pub(crate) fn descriptors_sent_to_the_launcher_are_closed() {
    let rig = Rig::new();
    let client = rig.client();
    let count = || {
        fs::read_dir(format!("/proc/{}/fd", rig.launcher.id()))
            .unwrap()
            .count()
    };
    let before = count();
    let null = fs::File::open("/dev/null").unwrap();
    for _ in 0..20 {
        raw(
            &client,
            br#"{"seq":1,"request":"list"}"#,
            &[null.as_fd(); 8],
        );
        client.receive();
        raw(
            &client,
            br#"{"seq":1,"request":"list"}"#,
            &[null.as_fd(); 3],
        );
        client.receive();
    }
    // When it answers this, it is done with what came before.
    raw(&client, br#"{"seq":2,"request":"list"}"#, &[]);
    client.receive();
    assert_eq!(count(), before);
}

fn raw(client: &Client, bytes: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || beside.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(
        &client.socket,
        &[IoSlice::new(bytes)],
        &mut beside,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
}

pub(crate) fn plan_over_a_ceiling_is_refused() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut check = |change: &dyn Fn(&mut SandboxPlan)| {
        let mut plan = plan(1);
        change(&mut plan);
        let refusal = client.refused(plan);
        assert_eq!(refusal.reason, RefusalReason::Ceiling, "{refusal:?}");
    };
    let mount = |source: &str, target: &str| {
        vec![Mount {
            source: MountSource::Path(source.into()),
            target: target.into(),
            writable: false,
        }]
    };
    check(&|plan| plan.limits.memory = 1 << 40);
    check(&|plan| plan.image = Image::Dir("/usr".into()));
    check(&|plan| plan.image = Image::Dir(rig.dir.path().join("images/../data")));
    check(&|plan| plan.mounts = mount("/etc", "/x"));
    check(&|plan| {
        plan.mounts = mount(
            rig.dir.path().join("shared/../state").to_str().unwrap(),
            "/x",
        )
    });
    check(&|plan| plan.mounts = mount(rig.dir.path().join("shared").to_str().unwrap(), "/proc/x"));
    assert_eq!((rig.leaves(), rig.state("bundles")), (vec![], vec![]));
}

pub(crate) fn image_reached_through_a_symlink_is_refused() {
    let rig = Rig::new();
    symlink("/", rig.dir.path().join("images/all")).unwrap();
    symlink("/etc", rig.dir.path().join("shared/etc")).unwrap();
    let mut client = rig.client();
    let image = SandboxPlan {
        image: Image::Dir(rig.dir.path().join("images/all")),
        ..plan(1)
    };
    assert_eq!(client.refused(image).reason, RefusalReason::Missing);
    let source = MountSource::Path(rig.dir.path().join("shared/etc"));
    let mounts = vec![Mount {
        source,
        target: "/x".into(),
        writable: false,
    }];
    assert_eq!(
        client.refused(SandboxPlan { mounts, ..plan(2) }).reason,
        RefusalReason::Missing
    );
    assert_eq!((rig.leaves(), rig.state("bundles")), (vec![], vec![]));
}

pub(crate) fn plan_without_its_image_is_refused() {
    let rig = Rig::new();
    let refusal = rig.client().refused(SandboxPlan {
        image: Image::Named("nosuch".parse().unwrap()),
        ..plan(1)
    });
    assert_eq!(refusal.reason, RefusalReason::Missing, "{refusal:?}");
    assert!(refusal.message.contains("nosuch"), "{refusal:?}");
}

pub(crate) fn id_in_use_is_refused() {
    let rig = Rig::new();
    let mut client = rig.client();
    let running = client.create(plan(1));
    assert_eq!(client.refused(plan(1)).reason, RefusalReason::Exists);
    client.kill(&running.id);
    let again = client.create(plan(1));
    client.kill(&again.id);
}

pub(crate) fn more_sandboxes_than_allowed_are_refused() {
    let rig = Rig::new();
    let mut client = rig.client();
    let running: Vec<Running> = (0..4).map(|id| client.create(plan(id))).collect();
    assert_eq!(client.refused(plan(9)).reason, RefusalReason::Full);
    for running in running {
        client.kill(&running.id);
    }
}
