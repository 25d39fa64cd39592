//! What the children do. Each gives `true` when its claim holds.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    os::{
        fd::AsRawFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixDatagram, UnixStream},
        },
    },
    path::Path,
    process::Command,
    thread,
};

use caps::Capability;
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::signal::kill,
    unistd::{Pid, Uid, setresuid},
};
use paw_confine::{
    drop::{drop_keeping, drop_to},
    landlock::{Floor, LandlockError, PathRule, Ports, Rights, Rules, enforce},
    prove::{ProofError, prove},
    report::Confinement,
    seccomp::{self, SeccompError},
    sys,
    userns::{self, Extent},
};

/// A user that nobody is.
const NOBODY: u32 = 599_990_007;

/// A file that everybody may read and no list of ours allows.
const OUTSIDE: &str = "/etc/passwd";

const STRICT: Floor = Floor {
    files: true,
    net: false,
    scope: false,
};

/// Runs a child's part.
pub(crate) fn run(name: &str) -> bool {
    match name {
        "locked_memory_is_kept_from_swap_core_files_and_children" => {
            locked_memory_is_kept_from_swap_core_files_and_children()
        }
        "unlisted_call_kills" => {
            seccomp::pawd().apply().unwrap();
            nix::unistd::sync();
            false
        }
        "refused_call_fails_and_the_process_lives" => {
            let before = sys::personality().is_ok();
            seccomp::pawd().apply().unwrap();
            before
                && sys::personality() == Err(Errno::EPERM)
                && unshare(CloneFlags::CLONE_FILES) == Err(Errno::EPERM)
        }
        "pawd_cannot_fork" => {
            seccomp::pawd().apply().unwrap();
            sys::fork_alone().is_err()
        }
        "pawd_cannot_execute" => {
            seccomp::pawd().apply().unwrap();
            nix::unistd::execv(c"/bin/true", &[c"true"]) == Err(Errno::EPERM)
        }
        "pawd_can_start_threads" => {
            seccomp::pawd().apply().unwrap();
            thread::spawn(|| 7).join().unwrap() == 7
        }
        "pawd_can_do_its_work" => {
            seccomp::pawd().apply().unwrap();
            work();
            true
        }
        "audit_has_no_network" => {
            seccomp::audit().apply().unwrap();
            UdpSocket::bind("127.0.0.1:0").is_err()
                && UnixDatagram::unbound().is_ok()
                && files().is_some()
        }
        "doorkeeper_cannot_open_files" => {
            seccomp::doorkeeper().apply().unwrap();
            File::open(OUTSIDE).is_err()
        }
        "sandbox_can_run_programs" => {
            seccomp::sandbox().apply().unwrap();
            let output = Command::new("/bin/sh")
                .args(["-c", "x=$(echo a | cat); echo $x; ls / >/dev/null; exit 3"])
                .output()
                .unwrap();
            output.status.code() == Some(3) && output.stdout == b"a\n"
        }
        "sandbox_cannot_make_namespaces" => {
            seccomp::sandbox().apply().unwrap();
            let refused = |flags| unshare(flags) == Err(Errno::EPERM);
            refused(CloneFlags::CLONE_NEWUSER)
                && refused(CloneFlags::CLONE_NEWNS)
                && nix::sys::socket::socket(
                    nix::sys::socket::AddressFamily::Netlink,
                    nix::sys::socket::SockType::Raw,
                    nix::sys::socket::SockFlag::empty(),
                    None,
                )
                .is_err_and(|errno| errno == Errno::EPERM)
        }
        "filter_is_refused_with_other_threads" => {
            with_another_thread(|| matches!(seccomp::pawd().apply(), Err(SeccompError::Threads(_))))
        }
        "landlock_holds_for_files" => landlock_files(),
        "landlock_holds_for_ports" => landlock_ports(),
        "landlock_holds_for_processes_outside" => {
            let enforced = enforce(
                &Rules {
                    scope: true,
                    connect: Ports::Any,
                    bind: Ports::Any,
                    paths: None,
                },
                Floor::default(),
            )
            .unwrap();
            let parent = Pid::parent();
            !enforced.scope
                || (kill(parent, None) == Err(Errno::EPERM) && kill(Pid::this(), None).is_ok())
        }
        "needed_path_that_is_missing_is_an_error" => {
            let rules = |rule| Rules {
                paths: Some(vec![rule]),
                ..Rules::default()
            };
            let missing = enforce(
                &rules(PathRule::new(
                    "/no/such",
                    Rights::Read,
                    "needed by the test",
                )),
                STRICT,
            );
            let optional = enforce(
                &rules(PathRule::optional(
                    "/no/such",
                    Rights::Read,
                    "used by the test",
                )),
                STRICT,
            );
            matches!(missing, Err(LandlockError::Path { .. })) && optional.is_ok()
        }
        "proof_succeeds_when_everything_holds" => proof(true, true, true, OUTSIDE).is_empty(),
        "proof_fails_without_the_drop" => {
            proof(false, true, true, OUTSIDE).contains(&"capabilities".to_owned())
        }
        "proof_fails_without_landlock" => {
            proof(true, false, true, OUTSIDE) == [format!("open {OUTSIDE}")]
        }
        "proof_fails_without_seccomp" => {
            proof(true, true, false, OUTSIDE) == ["seccomp", "call personality"]
        }
        "proof_needs_a_file_that_exists" => {
            proof(true, true, true, "/proc/self/nothing") == ["open /proc/self/nothing"]
        }
        "drop_leaves_nothing" => {
            drop_to(NOBODY, NOBODY, &[]).unwrap();
            let now = Confinement::of_self(None).unwrap();
            let empty = now.caps.iter().all(|set| set == "0000000000000000");
            let root = Uid::from_raw(0);
            empty
                && (now.uid, now.gid) == (NOBODY, NOBODY)
                && now.no_new_privs
                && setresuid(root, root, root).is_err()
        }
        "drop_to_root_is_refused" => drop_to(0, 0, &[]).is_err(),
        "user_namespace_has_its_map_and_no_right_outside" => namespace(),
        "user_namespace_can_be_nested_with_several_extents" => nested(),
        "two_capabilities_are_enough_for_a_user_namespace" => {
            drop_keeping(
                NOBODY,
                NOBODY,
                &[],
                &[Capability::CAP_SETUID, Capability::CAP_SETGID],
            )
            .unwrap();
            let held = Confinement::of_self(None).unwrap().caps_effective == "00000000000000c0";
            held && namespace()
        }
        "descriptor_is_taken_over_once" => {
            let file = File::open(OUTSIDE).unwrap();
            let number = file.as_raw_fd();
            std::mem::forget(file);
            sys::inherited(number).is_ok()
                && sys::inherited(number).is_err()
                && sys::inherited(2).is_err()
                && sys::inherited(999).is_err()
        }
        other => panic!("no child {other}"),
    }
}

/// What pawd does all day, as far as the standard library can do it.
fn work() {
    assert!(files().is_some());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
    });
    let address = ("localhost", port)
        .to_socket_addrs()
        .unwrap()
        .find(std::net::SocketAddr::is_ipv4)
        .unwrap();
    let mut said = String::new();
    TcpStream::connect(address)
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    server.join().unwrap();
    assert_eq!(said, "hello");
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    ours.write_all(b"x").unwrap();
    theirs.read_exact(&mut [0]).unwrap();
    thread::sleep(std::time::Duration::from_millis(1));
    // A panic must be able to speak and to unwind, or nobody would know what happened.
    assert!(
        thread::spawn(|| panic!("a panic that is meant"))
            .join()
            .is_err()
    );
}

/// Files as a store uses them.
fn files() -> Option<()> {
    let dir = tempfile::tempdir().ok()?;
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let mut file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&one)
        .ok()?;
    file.write_all(b"text").ok()?;
    file.set_len(1 << 16).ok()?;
    file.lock().ok()?;
    file.sync_all().ok()?;
    file.sync_data().ok()?;
    fs::rename(&one, &two).ok()?;
    fs::set_permissions(&two, fs::Permissions::from_mode(0o600)).ok()?;
    fs::copy(&two, &one).ok()?;
    File::open(dir.path()).ok()?.sync_all().ok()?;
    (fs::read_dir(dir.path()).ok()?.count() == 2).then_some(())
}

fn with_another_thread(check: impl FnOnce() -> bool) -> bool {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let other = thread::spawn(move || stopped.recv());
    let holds = check();
    drop(stop);
    let _ = other.join().unwrap();
    holds
}

fn landlock_files() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let (read, write) = (dir.path().join("read"), dir.path().join("write"));
    fs::create_dir(&read).unwrap();
    fs::create_dir(&write).unwrap();
    fs::write(read.join("file"), "text").unwrap();
    let paths = vec![
        PathRule::new(&read, Rights::Read, "read by the test"),
        PathRule::new(&write, Rights::ReadWrite, "written by the test"),
        PathRule::new("/proc", Rights::Read, "looked at by the test"),
    ];
    let enforced = enforce(
        &Rules {
            paths: Some(paths),
            ..Rules::default()
        },
        STRICT,
    )
    .unwrap();
    let denied = |result: std::io::Result<()>| {
        result.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    enforced.files
        && fs::read(read.join("file")).is_ok()
        && denied(fs::write(read.join("file"), "other"))
        && denied(fs::write(read.join("new"), ""))
        && fs::write(write.join("new"), "").is_ok()
        && denied(File::open(OUTSIDE).map(drop))
        && denied(fs::read_dir("/").map(drop))
}

fn landlock_ports() -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let allowed = listener.local_addr().unwrap().port();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let rules = Rules {
        paths: None,
        connect: Ports::Only(vec![allowed]),
        bind: Ports::None,
        scope: false,
    };
    let enforced = enforce(&rules, Floor::default()).unwrap();
    let denied = |error: std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
    !enforced.net
        || (TcpStream::connect(("127.0.0.1", allowed)).is_ok()
            && TcpStream::connect(other.local_addr().unwrap()).is_err_and(denied)
            && TcpListener::bind("127.0.0.1:0").is_err_and(denied))
}

/// Confines this process with some protections, and gives the probes that did not end as they should.
fn proof(dropped: bool, landlocked: bool, filtered: bool, outside: &str) -> Vec<String> {
    if dropped {
        drop_to(NOBODY, NOBODY, &[]).unwrap();
    }
    if landlocked {
        let paths = vec![PathRule::new("/proc", Rights::Read, "the proof reads it")];
        enforce(
            &Rules {
                paths: Some(paths),
                connect: Ports::Only(vec![443]),
                bind: Ports::None,
                scope: true,
            },
            STRICT,
        )
        .unwrap();
    }
    if filtered {
        seccomp::pawd().apply().unwrap();
    }
    match prove(Path::new(outside)) {
        Ok(_) => Vec::new(),
        Err(ProofError::NotHeld(probes)) => probes
            .into_iter()
            .filter(|probe| !probe.ok)
            .map(|probe| probe.probe)
            .collect(),
        Err(error) => panic!("{error}"),
    }
}

fn namespace() -> bool {
    let own = nix::unistd::geteuid().as_raw();
    let outer = if own == 0 { NOBODY } else { own };
    if own == 0 {
        drop_keeping(
            NOBODY,
            NOBODY,
            &[],
            &[Capability::CAP_SETUID, Capability::CAP_SETGID],
        )
        .unwrap();
    }
    let map = [
        Extent {
            inside: 0,
            outside: outer,
            count: 1,
        },
        Extent {
            inside: 65536,
            outside: 600_000_000,
            count: 131_072,
        },
    ];
    userns::enter(userns::make(&map, &map).unwrap()).unwrap();
    let now = Confinement::of_self(None).unwrap();
    let seen = userns::parse_map(&fs::read_to_string("/proc/self/uid_map").unwrap());
    // Root of its own namespace, with every capability there; none of them opens a file of the host's root.
    now.uid == 0
        && now.userns
        && seen == map
        && now.caps_effective.ends_with("ffff")
        && File::open("/etc/shadow").is_err()
}

fn nested() -> bool {
    if !namespace() {
        return false;
    }
    let map = [
        Extent {
            inside: 0,
            outside: 131_072,
            count: 1000,
        },
        Extent {
            inside: 1000,
            outside: 65_537,
            count: 1,
        },
        Extent {
            inside: 1001,
            outside: 132_073,
            count: 64_535,
        },
    ];
    userns::enter(userns::make(&map, &map).unwrap()).unwrap();
    userns::parse_map(&fs::read_to_string("/proc/self/uid_map").unwrap()) == map
}

/// As the kernel shows the pages of a locked value, and as a child of ours finds them.
fn locked_memory_is_kept_from_swap_core_files_and_children() -> bool {
    let mut value = sys::Locked::zeroed(3).unwrap();
    value.copy_from_slice(b"key");
    let at = value.as_ptr() as usize;
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    let flags = maps.lines().find_map(|line| {
        let bounds = line.split(' ').next().and_then(|it| it.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        if let Some((Some(from), Some(to))) = bounds.map(|(a, b)| (number(a), number(b))) {
            inside = (from..to).contains(&at);
        }
        line.strip_prefix("VmFlags:").filter(|_| inside)
    });
    let flags: Vec<&str> = flags.unwrap().split_whitespace().collect();
    let has_all = ["lo", "dd", "wf"].iter().all(|it| flags.contains(it));
    let Some(child) = sys::fork_alone().unwrap() else {
        sys::exit_now(i32::from(value.iter().any(|byte| *byte != 0)));
    };
    let wiped =
        nix::sys::wait::waitpid(child, None) == Ok(nix::sys::wait::WaitStatus::Exited(child, 0));
    has_all && wiped && *value == *b"key"
}
