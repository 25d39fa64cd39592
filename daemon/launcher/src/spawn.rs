//! Starting paw-create for one sandbox, and hearing what comes back over the pipes.
//!
//! Descriptors are everything here: paw-create gets this sandbox's own and no other, and what is read from a sandbox is bounded
//! and never waited for.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Command, Stdio},
};

use command_fds::{CommandFdExt, FdMapping};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    unistd::{Pid, pipe2, read},
};
use paw_confine::userns;
use paw_launch::frame::{self, HEADER, Hello, Tag};

use crate::{ceilings::Approved, host::Host, sandbox::CreateError};

/// How much of what paw-create or paw-init said is kept for a refusal, in bytes.
const MAX_SAID: usize = 4096;

/// A hello is a few bytes of JSON.
const MAX_HELLO: usize = 256;

/// paw-create at work, and our ends of the pipes.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) child: Pid,
    /// What paw-create says itself.
    pub(crate) report: OwnedFd,
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Starts paw-create with exactly the descriptors of this sandbox.
pub(crate) fn spawn(
    host: &Host,
    dir: &Path,
    plan: &Approved,
    map: &[userns::Extent],
) -> Result<Spawned, CreateError> {
    let pipe = |flags| pipe2(OFlag::O_CLOEXEC | flags).map_err(CreateError::Pipe);
    let (inside_stdin, stdin) = pipe(OFlag::empty())?;
    let (stdout, inside_stdout) = pipe(OFlag::empty())?;
    let (stderr, inside_stderr) = pipe(OFlag::empty())?;
    let (report, said) = pipe(OFlag::empty())?;
    // Our ends only: whether a descriptor blocks is a property of the end, and programs inside expect theirs to.
    for ours in [&stdout, &stderr, &report] {
        rustix::io::ioctl_fionbio(ours, true)
            .map_err(|errno| CreateError::Pipe(Errno::from_raw(errno.raw_os_error())))?;
    }
    let namespace = userns::make(map, map)?;
    let run = dir.join("run");
    fs::create_dir(&run).map_err(CreateError::Spawn)?;
    let mapping = |parent_fd, child_fd| FdMapping {
        parent_fd,
        child_fd,
    };
    let mut command = Command::new(&host.create);
    command
        .args([dir.as_os_str(), plan.id.as_str().as_ref(), run.as_os_str()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(said.try_clone().map_err(CreateError::Spawn)?)
        .stderr(said)
        .fd_mappings(vec![
            mapping(inside_stdin, 3),
            mapping(inside_stdout, 4),
            mapping(inside_stderr, 5),
            mapping(namespace, 6),
        ])
        .map_err(|collision| CreateError::Spawn(io::Error::other(collision)))?;
    let child = command.spawn().map_err(CreateError::Spawn)?;
    let child = Pid::from_raw(
        i32::try_from(child.id()).map_err(|error| CreateError::Spawn(io::Error::other(error)))?,
    );
    Ok(Spawned {
        child,
        report,
        stdin,
        stdout,
        stderr,
    })
}

/// Reads towards a hello, and not a byte further: what comes after it is pawd's. `true` when it is complete.
pub(crate) fn hear_hello(stdout: &OwnedFd, said: &mut Vec<u8>) -> Result<bool, CreateError> {
    loop {
        let wanted = match said.first_chunk::<HEADER>() {
            None => HEADER,
            Some(header) => {
                let (length, tag, _) = frame::parse_header(*header)
                    .map_err(|error| CreateError::BadHello(error.to_string()))?;
                if tag != Tag::Hello || length > MAX_HELLO {
                    return Err(CreateError::BadHello(format!(
                        "a {tag:?} frame of {length} bytes"
                    )));
                }
                if said.len() == HEADER + length {
                    let hello: Hello = serde_json::from_slice(&said[HEADER..])
                        .map_err(|error| CreateError::BadHello(error.to_string()))?;
                    return if hello.version == frame::VERSION {
                        Ok(true)
                    } else {
                        Err(CreateError::BadHello(format!(
                            "version {}; this is {}",
                            hello.version,
                            frame::VERSION
                        )))
                    };
                }
                HEADER + length
            }
        };
        let mut more = [0; HEADER + MAX_HELLO];
        match read(stdout.as_fd(), &mut more[..wanted - said.len()]) {
            Ok(0) => return Err(CreateError::NoHello(String::new())),
            Ok(count) => said.extend_from_slice(&more[..count]),
            Err(Errno::EAGAIN) => return Ok(false),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(CreateError::BadHello(errno.to_string())),
        }
    }
}

/// What waits in a non-blocking pipe, at most [`MAX_SAID`] bytes.
pub(crate) fn read_some(pipe: &OwnedFd) -> String {
    let mut said = vec![0; MAX_SAID];
    let mut count = 0;
    while count < said.len() {
        match read(pipe, &mut said[count..]) {
            Ok(0) | Err(Errno::EAGAIN) => break,
            Ok(more) => count += more,
            Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&said[..count]).into_owned()
}
