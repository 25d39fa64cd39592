//! Connects to the socket named by its only argument and passes bytes between it and its stdin, which is a socket too.
//!
//! The kernel notes who connects. A test that wants to be another user starts this program as that user, and speaks through it.

use std::{
    env, io,
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    process::ExitCode,
    thread,
};

fn main() -> ExitCode {
    match pass_on() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn pass_on() -> io::Result<()> {
    let path = env::args_os().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    let there = UnixStream::connect(path)?;
    let here = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (mut from_here, mut to_there) = (here.try_clone()?, there.try_clone()?);
    let up = thread::spawn(move || {
        let ended = io::copy(&mut from_here, &mut to_there);
        // The other side may be gone already; then there is nothing to close.
        let _ = to_there.shutdown(Shutdown::Write);
        ended
    });
    let (mut from_there, mut to_here) = (there, here);
    io::copy(&mut from_there, &mut to_here)?;
    to_here.shutdown(Shutdown::Both)?;
    // The test ends its half whenever it likes; that is no fault of ours.
    drop(up.join());
    Ok(())
}
