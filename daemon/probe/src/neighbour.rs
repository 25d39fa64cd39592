//! A sandbox that leaves everything open, for the one beside it to find.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    process::ExitCode,
};

/// The word that makes this program one.
pub(crate) const WORD: &str = "neighbour";

/// A port that it listens on.
pub(crate) const PORT: u16 = 47_111;

/// An abstract socket that it listens on.
pub(crate) const NAME: &str = "paw-neighbour";

/// Files that it makes, which everybody may read.
pub(crate) const FILES: [&str; 2] = ["/tmp/paw-neighbour", "/dev/shm/paw-neighbour"];

/// Opens whatever it may, says so, and waits to be ended.
pub(crate) fn stay() -> ExitCode {
    // What a sandbox may not even do for itself, another one cannot find.
    let held = (
        TcpListener::bind(("127.0.0.1", PORT)),
        SocketAddr::from_abstract_name(NAME).and_then(|address| UnixListener::bind_addr(&address)),
        FILES.map(|file| fs::write(file, "a secret")),
    );
    let mut out = std::io::stdout();
    if writeln!(out, "ready").and_then(|()| out.flush()).is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        nix::unistd::pause();
        // They are open for as long as it stays.
        let _ = &held;
    }
}
