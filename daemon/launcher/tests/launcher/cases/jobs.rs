//! Jobs: what they get, what they must have given up, and what becomes of those that do not behave.

use std::{
    fs,
    io::{Read as _, Seek as _, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use paw_confine::report::Confinement;
use paw_launch::{
    egress::PORT,
    image::{ImageOrder, ImagePage, Origin},
    request::{Refusal, RefusalReason, Reply, Request},
    workspace::Settle,
};
use serde_json::{Map, Value, json};

use super::layers::{sh, writer};
use crate::{
    rig::{As, Client, Rig, UID, lives, open_to_all, plan},
    say,
};

/// Stands in the place of a job: what it does is said by each test, with these words.
const WORDS: &str = r#"#!/usr/bin/python3 -I
import ctypes, json, os, signal, socket, struct, sys, time
s = socket.socket(fileno=3)
def join():
    for entrance in sys.argv[2:]:
        open(entrance, 'w').write('0')
def confine():
    class Prog(ctypes.Structure):
        _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
    allow = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
    prog = Prog(1, ctypes.cast(allow, ctypes.c_void_p))
    assert ctypes.CDLL(None).prctl(22, 2, ctypes.byref(prog)) == 0
    os.setresgid(70000, 70000, 70000)
    os.setresuid(70000, 70000, 70000)
def ready(): s.send(b'{"version":2}')
def charge(): return socket.recv_fds(s, 65536, 4)
def done(value, fds=[]): socket.send_fds(s, [json.dumps({"done": value}).encode()], fds)
def begin():
    join(); confine(); ready(); return charge()
"#;

/// A launcher whose job does this.
fn rig(body: &str) -> Rig {
    Rig::with_job("paw-image", &format!("{WORDS}{body}\n"))
}

fn list() -> Request {
    Request::Image {
        order: ImageOrder::List { after: None },
    }
}

fn refused(reply: Reply) -> Refusal {
    match reply {
        Reply::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn done(reply: Reply) -> Value {
    match reply {
        Reply::Done { result } => result,
        other => panic!("not done: {other:?}"),
    }
}

/// Asks a job that fails, and looks whether anything of it is left.
fn fails(rig: &Rig) -> Refusal {
    let refusal = refused(rig.client().ask(list()).0);
    assert_eq!(rig.leaves(), Vec::<PathBuf>::new());
    assert_eq!(refusal.reason, RefusalReason::Failed, "{refusal:?}");
    refusal
}

pub(crate) fn a_job_does_what_was_asked_and_leaves_nothing_behind() {
    let rig = Rig::new();
    let mut client = rig.client();
    let descriptors = || {
        fs::read_dir(format!("/proc/{}/fd", rig.launcher.id()))
            .unwrap()
            .count()
    };
    let before = descriptors();
    for _ in 0..3 {
        let page: ImagePage = serde_json::from_value(done(client.ask(list()).0)).unwrap();
        let names: Vec<_> = page
            .images
            .iter()
            .map(|image| (image.name.as_str(), image.origin))
            .collect();
        assert_eq!(names, [("busybox", Origin::Shipped)]);
    }
    assert_eq!(
        (rig.leaves(), descriptors()),
        (Vec::<PathBuf>::new(), before)
    );
}

pub(crate) fn a_job_of_ours_is_confined_while_it_works() {
    let rig = Rig::new();
    let mut client = rig.client();
    done(client.ask(list()).0);
    // Whoever holds this lock keeps it waiting in the middle of its work.
    let images = fs::File::open(rig.dir.path().join("state/images")).unwrap();
    images.lock().unwrap();
    let seq = client.send(Request::Image {
        order: ImageOrder::Sweep,
    });
    let waiting = waits_for_a_lock(&rig);
    let job = Confinement::of(waiting).unwrap();
    let launcher = Confinement::of(rig.launcher.id()).unwrap();
    images.unlock().unwrap();
    done(client.answer(seq).0);
    let none = "0000000000000000".to_owned();
    assert_eq!([&job.caps[1], &job.caps[2], &job.caps[3]], [&none; 3]);
    assert!(job.no_new_privs && job.userns);
    assert!(job.seccomp_filters > launcher.seccomp_filters, "{job:?}");
    assert_eq!(job.uid, UID);
}

/// Numbers of descriptors that are a program's own. What whoever runs these tests has left open is open in every process below, and
/// at the same number in this one.
pub(super) fn own(links: &Map<String, Value>) -> Vec<&str> {
    let foreign = |number: &str, link: &Value| {
        fs::read_link(format!("/proc/self/fd/{number}"))
            .is_ok_and(|own| own.to_str() == link.as_str())
            && number != "0"
    };
    links
        .iter()
        .filter(|(number, link)| !foreign(number, link))
        .map(|(number, _)| number.as_str())
        .collect()
}

pub(crate) fn a_job_has_nothing_of_the_launcher_but_its_socket() {
    let rig = rig("begin()\n\
        links = {n: os.readlink('/proc/self/fd/' + n) for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n)}\n\
        done({'links': links, 'env': dict(os.environ), 'cwd': os.getcwd()})");
    let seen = done(rig.client().ask(list()).0);
    let links = seen["links"].as_object().unwrap();
    assert_eq!(own(links), ["0", "1", "2", "3"], "{links:?}");
    assert_eq!(
        (&links["0"], &links["1"]),
        (&json!("/dev/null"), &json!("/dev/null"))
    );
    assert_eq!(seen["cwd"], json!("/"));
    let env = seen["env"].as_object().unwrap();
    assert!(env.keys().all(|key| key == "LC_CTYPE"), "{env:?}");
}

/// The first version of landlock that has rules about signals; ports are older.
const KNOWS_SIGNALS: u32 = 6;

/// What of landlock is on the launcher is on whatever it starts. The doorkeeper is of the same user, and outside of it.
pub(crate) fn what_the_launcher_starts_is_bound_by_its_landlock() {
    let rig = Rig::new();
    let mut client = rig.client();
    let (doorkeeper, abi) = match client.ask(Request::Status).0 {
        Reply::Status {
            doorkeeper,
            landlock_abi,
            ..
        } => (doorkeeper, landlock_abi),
        other => panic!("no status: {other:?}"),
    };
    if abi < KNOWS_SIGNALS {
        say(&format!(
            "  skipped: landlock of this kernel is of version {abi}, and knows signals from {KNOWS_SIGNALS} on"
        ));
        return;
    }
    let body = format!(
        "import errno\n\
        def tried(what):\n    try: what(); return 'it worked'\n    except OSError as e: return errno.errorcode[e.errno]\n\
        def bind(port): socket.socket().bind(('', port))\n\
        seen = [tried(lambda: bind(5000)), tried(lambda: bind({PORT})), tried(lambda: os.kill({doorkeeper}, 0)), tried(lambda: os.kill(os.getpid(), 0))]\n\
        begin(); done(seen)\n"
    );
    let job = rig.dir.path().join("libexec/paw-image");
    fs::write(&job, format!("{WORDS}{body}")).unwrap();
    open_to_all(&job);
    assert_eq!(
        done(client.ask(list()).0),
        json!(["EACCES", "it worked", "EPERM", "it worked"])
    );
}

pub(crate) fn a_job_that_did_not_confine_itself_is_told_nothing() {
    for body in [
        // No filter of its own, and all capabilities of the namespace.
        "join(); ready(); charge(); done('told')",
        // A filter, but capabilities.
        "os.setresuid = os.setresgid = lambda *a: None\nbegin(); done('told')",
        // No capabilities, but no filter.
        "join(); os.setresuid(70000, 70000, 70000); ready(); charge(); done('told')",
    ] {
        let refusal = fails(&rig(body));
        assert!(
            refusal.message.contains("has not confined itself"),
            "{refusal:?}"
        );
    }
}

pub(crate) fn a_job_that_is_in_no_cgroup_is_told_nothing() {
    let refusal = fails(&rig("confine(); ready(); charge(); done('told')"));
    assert!(refusal.message.contains("in cgroup"), "{refusal:?}");
}

pub(crate) fn a_job_past_its_beginning_is_killed_and_told() {
    let refusal = fails(&rig(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); join(); time.sleep(600)",
    ));
    assert!(
        refusal.message.contains("took longer than 10 s"),
        "{refusal:?}"
    );
}

pub(crate) fn a_job_that_dies_is_told_with_its_last_words() {
    let refusal = fails(&rig(
        "begin(); sys.stderr.write('the disk is on fire'); sys.stderr.flush(); os._exit(3)",
    ));
    assert!(
        refusal.message.contains("exit code Some(3)")
            && refusal.message.contains("the disk is on fire"),
        "{refusal:?}"
    );
}

pub(crate) fn a_job_over_its_memory_is_killed_and_told() {
    let refusal = fails(&rig("begin(); waste = b'x' * (600 << 20); done('had it')"));
    assert!(refusal.message.contains("more memory"), "{refusal:?}");
}

pub(crate) fn an_answer_that_is_none_is_refused() {
    for body in [
        "begin(); s.send(b'[1,2')",
        "begin(); s.send(b'{\"done\":1,\"refused\":2}')",
        "begin(); s.send(b' ' * 60000)",
        "begin(); s.close(); time.sleep(600)",
        "join(); confine(); s.send(b'{\"version\":1}'); time.sleep(600)",
        // What a reply cannot carry.
        "begin(); done('x' * 65000)",
    ] {
        fails(&rig(body));
    }
}

pub(crate) fn a_descriptor_goes_to_a_job_and_comes_back() {
    let rig = rig("_, fds, _, _ = begin()\n\
        text = os.read(fds[0], 100)\n\
        m = os.memfd_create('back'); os.write(m, text[::-1])\n\
        done(len(fds), [m])");
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"forth").unwrap();
    file.rewind().unwrap();
    let (reply, fds) = rig.client().ask_with(list(), &file);
    assert_eq!((done(reply), fds.len()), (json!(1), 1));
    let mut back = fs::File::from(fds.into_iter().next().unwrap());
    let mut text = String::new();
    back.rewind().unwrap();
    back.read_to_string(&mut text).unwrap();
    assert_eq!(text, "htrof");
}

pub(crate) fn more_jobs_than_allowed_are_refused_and_sandboxes_go_on() {
    let rig = rig("begin(); charge()");
    let mut busy: Vec<Client> = (0..4).map(|_| rig.client()).collect();
    for client in &mut busy {
        client.send(list());
    }
    let mut client = rig.client();
    let refusal = refused(client.ask(list()).0);
    assert_eq!(refusal.reason, RefusalReason::Full, "{refusal:?}");
    assert_eq!(
        client.run(plan(1), &["echo", "went on"]).stdout,
        "went on\n"
    );
}

pub(crate) fn a_workspace_does_not_wait_for_images() {
    let rig = rig("begin(); charge()");
    let mut busy: Vec<Client> = (0..4).map(|_| rig.client()).collect();
    for client in &mut busy {
        client.send(list());
    }
    let mut client = rig.client();
    sh(
        &mut client,
        writer(1, Settle::Stage),
        "echo one > /workspace/a",
    );
    assert_eq!(client.settle(1, Settle::Commit).changes, 1);
}

pub(crate) fn jobs_end_with_the_launcher() {
    let stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN); begin(); charge()";
    let mut stopped = rig(stubborn);
    stopped.client().send(list());
    let pid = at_work(&stopped);
    assert!(stopped.cut_lifeline().success());
    assert!(!lives(pid));
    assert_eq!(stopped.leaves(), Vec::<PathBuf>::new());

    let mut killed = rig(stubborn);
    killed.client().send(list());
    let pid = at_work(&killed);
    killed.crash_and_restart(As::Root);
    assert!(!lives(pid));
    assert_eq!(killed.leaves(), Vec::<PathBuf>::new());
}

/// The first process that is in the leaf of a job.
fn at_work(rig: &Rig) -> u32 {
    seen(rig, |_| true)
}

/// The job, once the kernel says that it waits for a lock on a file.
fn waits_for_a_lock(rig: &Rig) -> u32 {
    seen(rig, |pid| {
        let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        call.starts_with(&format!("{} ", nix::libc::SYS_flock))
    })
}

/// A job of which this holds. The kernel has no event for it, so it is asked until it is so, or the time is up.
fn seen(rig: &Rig, holds: impl Fn(u32) -> bool) -> u32 {
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        let found = rig
            .leaves()
            .iter()
            .filter_map(|leaf| fs::read_to_string(leaf.join("cgroup.procs")).ok())
            .find_map(|pids| pids.lines().next()?.parse::<u32>().ok())
            .filter(|pid| holds(*pid));
        if let Some(pid) = found {
            return pid;
        }
        std::thread::yield_now();
    }
    panic!("no such job");
}
