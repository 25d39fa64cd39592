//! The process itself: who may connect, what it has given up, and that it ends with who started it.

use std::{
    fs,
    io::{Write as _, pipe},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt as _, net::UnixListener},
    },
    path::PathBuf,
    process::{Child, Command},
};

use command_fds::{CommandFdExt as _, FdMapping};
use tokio::net::UnixStream;

use crate::rig::{Run, Server, next};

struct Process {
    child: Child,
    socket: PathBuf,
    lifeline: Option<std::io::PipeWriter>,
    _dir: tempfile::TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let _ = self.child.wait();
    }
}

/// Whether this test may run; it needs a root that can become somebody else.
fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        // Past what the test runner keeps of a test that passes.
        let said = "skipped: the ceiling has to be root's, and the test is not run by root\n";
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
    root
}

fn start(ceiling: &str, peer: u32) -> Process {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = dir.path().join("egress.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let config = dir.path().join("egress.toml");
    fs::write(&config, ceiling).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let (held, lifeline) = pipe().unwrap();
    let mapping = |fd: OwnedFd, number| FdMapping {
        parent_fd: fd,
        child_fd: number,
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_paw-egress"));
    command
        .args([
            "--listen-fd",
            "3",
            "--lifeline-fd",
            "4",
            "--uid",
            "65534",
            "--gid",
            "65534",
        ])
        .args(["--peer-uid", &peer.to_string(), "--config"])
        .arg(&config)
        .fd_mappings(vec![mapping(listener.into(), 3), mapping(held.into(), 4)])
        .unwrap();
    let child = command.spawn().unwrap();
    // The mapped copies of the descriptors go with the command.
    drop(command);
    Process {
        child,
        socket,
        lifeline: Some(lifeline),
        _dir: dir,
    }
}

#[tokio::test]
async fn a_confined_process_resolves_connects_and_serves() {
    if !root() {
        return;
    }
    let server = Server::hello().await;
    let port = server.port();
    let process = start(
        &format!(
            "hosts = [\"*\"]\nports = [{port}]\nallow_addresses = [\"127.0.0.1/32\", \"::1/128\"]\n[addresses]\n\"pinned.example\" = [\"127.0.0.1\"]"
        ),
        0,
    );
    let stream = UnixStream::connect(&process.socket).await.unwrap();
    let rules = [
        format!("pinned.example:{port}"),
        format!("localhost:{port}"),
        format!("nowhere.invalid:{port}"),
    ];
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let mut run = Run::over(stream, &rules).await.unwrap();
    assert_eq!(
        run.get(&format!("http://pinned.example:{port}/"))
            .await
            .status(),
        200
    );
    // By the host's own resolver, in a thread, under the filter.
    assert_eq!(
        run.get(&format!("http://localhost:{port}/")).await.status(),
        200
    );
    assert_eq!(
        run.get(&format!("http://nowhere.invalid:{port}/"))
            .await
            .status(),
        502
    );

    let status = fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(field("Uid:"), "65534");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
}

#[tokio::test]
async fn nobody_but_the_daemons_user_is_served() {
    if !root() {
        return;
    }
    let process = start("", 12_345);
    let mut stream = UnixStream::connect(&process.socket).await.unwrap();
    assert!(next(&mut stream).await.is_none());
}

#[tokio::test]
async fn it_ends_when_the_lifeline_is_cut() {
    if !root() {
        return;
    }
    let mut process = start("", 0);
    drop(process.lifeline.take());
    let status = process.child.wait().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_ceiling_that_others_may_write_is_refused() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("egress.toml");
    fs::write(&config, "").unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o666)).unwrap();
    let error = paw_egress::ceiling::Ceiling::read(&config, dir.path()).unwrap_err();
    assert!(error.to_string().contains("make it root's"), "{error}");
}
