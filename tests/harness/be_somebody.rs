//! Connects to the socket named by its only argument and passes bytes between it and its stdin, which is a socket too.
//!
//! The kernel notes who connects. A test that wants to be another user starts this program as that user, and speaks through it. With
//! `--hand-over` it gives the connection itself away, and waits until nobody wants it any more.

use std::{
    env,
    io::{self, IoSlice, Read as _},
    mem::MaybeUninit,
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    process::ExitCode,
    thread,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

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
    if env::args_os().nth(2).is_some_and(|it| it == "--hand-over") {
        return hand_over(here, &there);
    }
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

fn hand_over(mut to: UnixStream, connection: &UnixStream) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let descriptors = [connection.as_fd()];
    beside.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&to, &[IoSlice::new(b"x")], &mut beside, SendFlags::empty())?;
    // What comes is the end.
    to.read(&mut [0]).map(drop)
}
