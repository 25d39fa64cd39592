//! Capabilities, landlock and seccomp for our own processes.
//!
//! Everything here binds the calling thread and its later children only, so a process confines itself before its first other
//! thread exists; the functions check that and refuse otherwise. The order that works is: [`drop::drop_to`], then
//! [`landlock::enforce`], then [`seccomp::Profile::apply`], then [`prove::prove`], then threads.
//!
//! - [`report`]: what the kernel says a process is confined to.
//! - [`drop`]: user, groups, capabilities, dumpability.
//! - [`landlock`]: files, ports and scopes as data, with a floor below which nothing starts.
//! - [`seccomp`]: one list of system calls for each process, with a reason for each.
//! - [`prove`]: tries what must fail, and says what happened.
//! - [`peer`]: who is at the other end of a Unix socket.
//! - [`userns`]: a user namespace with a chosen map, for the launcher and for each sandbox.
//!
//! This crate knows no configuration and no protocol: what is allowed comes in as data, except for the system calls, which are
//! a property of the program itself.

pub mod drop;
pub mod landlock;
pub mod peer;
pub mod prove;
pub mod report;
pub mod seccomp;
pub mod sys;
pub mod userns;

/// Why this thread cannot be confined together with the whole process.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// Other threads would stay unconfined.
    #[error("the process has {0} threads already; confine it before the first one is started")]
    NotAlone(usize),
    /// `/proc` does not tell.
    #[error("count the threads of this process in /proc/self/task; mount /proc")]
    Count(#[source] std::io::Error),
}

/// Fails when the process has more than the calling thread.
///
/// # Errors
/// When there are other threads, or `/proc` is not there to tell.
pub fn alone() -> Result<(), ThreadError> {
    match std::fs::read_dir("/proc/self/task")
        .map_err(ThreadError::Count)?
        .count()
    {
        1 => Ok(()),
        more => Err(ThreadError::NotAlone(more)),
    }
}
