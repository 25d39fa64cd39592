//! The kernel's own log: whether it tells of a process that a filter killed.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Read},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long the log may be behind.
const LIMIT: Duration = Duration::from_secs(10);

/// What the log says.
pub(crate) enum Told {
    /// It tells.
    Yes,
    /// It does not.
    No,
    /// It cannot be read here.
    CannotLook(String),
}

/// Whether the log tells that this process was killed by a filter (record type 1326, signal 31).
pub(crate) fn tells(pid: u32) -> Told {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg");
    let mut log = match opened {
        Ok(log) => log,
        Err(error) => return Told::CannotLook(format!("open /dev/kmsg: {error}")),
    };
    let wanted = format!(" pid={pid} ");
    let deadline = Instant::now() + LIMIT;
    let mut record = vec![0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&record[..length]);
                if text.contains("type=1326") && text.contains(&wanted) && text.contains("sig=31") {
                    return Told::Yes;
                }
            }
            // Records were overwritten before they were read; the next read goes on behind them.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Told::No;
                }
                let mut fds = [PollFd::new(log.as_fd(), PollFlags::POLLIN)];
                let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                if poll(&mut fds, timeout) == Ok(0) {
                    return Told::No;
                }
            }
            Err(error) => return Told::CannotLook(format!("read /dev/kmsg: {error}")),
        }
    }
}
