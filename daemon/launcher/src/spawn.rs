//! Starting paw-create for one sandbox, and hearing what comes back over the pipes.
//!
//! Descriptors are everything here: paw-create gets this sandbox's own and no other, and what is read from a sandbox is bounded
//! and never waited for.

use std::{
    ffi::{CStr, CString, OsStr, OsString},
    fs,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn},
    sys::signal::{SigSet, Signal},
    unistd::{Pid, pipe2, read},
};
use paw_confine::userns::{self, Extent};
use paw_launch::frame::{self, HEADER, Hello, Tag};

use crate::{cgroup::Leaf, sandbox::CreateError};

/// How much of what paw-create or paw-init said is kept for a refusal, in bytes.
const MAX_SAID: usize = 4096;

/// A hello is a few bytes of JSON.
const MAX_HELLO: usize = 256;

/// What was started, and our ends of the pipes.
#[derive(Debug)]
pub(crate) struct Spawned {
    /// paw-create, which ends once it has told who paw-init is; or, without a report, what paw-init lives and ends with.
    pub(crate) child: Pid,
    /// What paw-create says itself.
    pub(crate) report: Option<OwnedFd>,
    pub(crate) ours: Streams,
}

/// One end of each of paw-init's streams.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Both ends of paw-init's streams.
pub(crate) struct Pipes {
    pub(crate) ours: Streams,
    pub(crate) theirs: Streams,
}

impl Pipes {
    pub(crate) fn new() -> Result<Self, CreateError> {
        let (inside_stdin, stdin) = pipe()?;
        let (stdout, inside_stdout) = pipe()?;
        let (stderr, inside_stderr) = pipe()?;
        // Our ends only: whether a descriptor blocks is a property of the end, and programs inside expect theirs to.
        for ours in [&stdout, &stderr] {
            unblock(ours)?;
        }
        Ok(Self {
            ours: Streams {
                stdin,
                stdout,
                stderr,
            },
            theirs: Streams {
                stdin: inside_stdin,
                stdout: inside_stdout,
                stderr: inside_stderr,
            },
        })
    }

    /// A pipe for what paw-create says itself: our end, and its end.
    pub(crate) fn report() -> Result<(OwnedFd, OwnedFd), CreateError> {
        let (report, said) = pipe()?;
        unblock(&report)?;
        Ok((report, said))
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), CreateError> {
    pipe2(OFlag::O_CLOEXEC).map_err(CreateError::Pipe)
}

fn unblock(pipe: &OwnedFd) -> Result<(), CreateError> {
    rustix::io::ioctl_fionbio(pipe, true)
        .map_err(|errno| CreateError::Pipe(Errno::from_raw(errno.raw_os_error())))
}

/// What a runtime needs to start a sandbox.
pub(crate) struct Order<'a> {
    pub(crate) id: &'a str,
    /// Its bundle.
    pub(crate) dir: &'a Path,
    /// Its leaf.
    pub(crate) leaf: &'a Leaf,
    /// Its ids, in terms of the launcher's namespace.
    pub(crate) map: &'a [Extent],
}

impl Order<'_> {
    /// The user namespace of this sandbox alone.
    pub(crate) fn namespace(&self) -> Result<OwnedFd, CreateError> {
        Ok(userns::make(self.map, self.map)?)
    }

    /// A directory for the runtime's own files, made here.
    pub(crate) fn run(&self) -> Result<PathBuf, CreateError> {
        let run = self.dir.join("run");
        fs::create_dir(&run).map_err(CreateError::Spawn)?;
        Ok(run)
    }
}

/// A program with nothing of ours but what is given: no environment, no descriptor, no blocked signal.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub(crate) path: &'a Path,
    /// Without its name.
    pub(crate) arguments: Vec<OsString>,
    /// Each of them, and the number that it has there.
    pub(crate) descriptors: Vec<(OwnedFd, RawFd)>,
}

/// Numbers below this one may be meant for a program that is started.
const OUT_OF_THE_WAY: RawFd = 16;

/// Starts a program. Unlike the standard library, which forks as soon as a descriptor has to have a number, this lends our memory
/// to the child until it executes, instead of copying the tables of our memory, and every page that we write until then. Nothing of
/// ours runs in between, and we have no other thread that could see it.
pub(crate) fn start(program: Program<'_>) -> Result<Pid, CreateError> {
    let spawn = |errno: Errno| CreateError::Spawn(errno.into());
    let text = |text: &OsStr| {
        CString::new(text.as_bytes()).map_err(|error| CreateError::Spawn(error.into()))
    };
    let mut arguments = vec![text(program.path.as_os_str())?];
    for argument in &program.arguments {
        arguments.push(text(argument)?);
    }
    let mut actions = PosixSpawnFileActions::init().map_err(spawn)?;
    // What gets a number must not be overwritten before its turn by another that gets the number which it has.
    let mut held = Vec::with_capacity(program.descriptors.len());
    for (descriptor, number) in program.descriptors {
        let descriptor = if descriptor.as_raw_fd() < OUT_OF_THE_WAY {
            rustix::io::fcntl_dupfd_cloexec(&descriptor, OUT_OF_THE_WAY)
                .map_err(|errno| CreateError::Spawn(errno.into()))?
        } else {
            descriptor
        };
        actions
            .add_dup2(descriptor.as_raw_fd(), number)
            .map_err(spawn)?;
        held.push(descriptor);
    }
    let mut attributes = PosixSpawnAttr::init().map_err(spawn)?;
    // We block what we read from a descriptor, and the standard library ignores SIGPIPE in our place.
    let mut ignored = SigSet::empty();
    ignored.add(Signal::SIGPIPE);
    attributes.set_sigmask(&SigSet::empty()).map_err(spawn)?;
    attributes.set_sigdefault(&ignored).map_err(spawn)?;
    attributes
        .set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)
        .map_err(spawn)?;
    let environment: [&CStr; 0] = [];
    posix_spawn(
        program.path,
        &actions,
        &attributes,
        &arguments,
        &environment,
    )
    .map_err(spawn)
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
