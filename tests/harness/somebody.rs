//! Being somebody else on the control socket: the kernel notes who connects, so somebody else has to.

use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
};

use jsonrpsee::async_client::Client;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;

/// A connection that the kernel reports as another user.
pub struct Somebody {
    /// Speaks as that user.
    pub client: Client,
    _guest: Guest,
}

impl Somebody {
    /// Connects to `socket` as `uid` with the groups `gid` (primary) and `groups`; needs root. `program` is the path of
    /// `be-somebody`. Must be called within a tokio runtime.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn connect(program: &Path, socket: &Path, uid: u32, gid: u32, groups: &[u32]) -> Self {
        let (stream, guest) = Guest::connect(program, socket, uid, gid, groups);
        Self {
            client: paw_api::client::over(stream),
            _guest: guest,
        }
    }
}

/// Who passes bytes on as that user; ends when it is dropped.
pub struct Guest {
    process: std::process::Child,
    _program: TempDir,
    /// What it waits on where it has handed its connection over.
    line: Option<UnixStream>,
}

impl Guest {
    /// As [`Somebody::connect`], for whoever wants to say bytes of their own.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn connect(
        program: &Path,
        socket: &Path,
        uid: u32,
        gid: u32,
        groups: &[u32],
    ) -> (tokio::net::UnixStream, Self) {
        let (ours, guest) = Self::start(program, socket, (uid, gid, groups), &[]);
        (asynchronous(ours), guest)
    }

    /// A connection that this user made and handed to us, over which we speak; see [`Guest::connect`].
    ///
    /// # Panics
    /// When it is not handed over.
    #[must_use]
    pub fn hands_over(
        program: &Path,
        socket: &Path,
        uid: u32,
        gid: u32,
        groups: &[u32],
    ) -> (tokio::net::UnixStream, Self) {
        let who = (uid, gid, groups);
        let (ours, mut guest) = Self::start(program, socket, who, &["--hand-over"]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let slice = &mut [IoSliceMut::new(&mut byte)];
        recvmsg(&ours, slice, &mut beside, RecvFlags::CMSG_CLOEXEC).expect("it is handed over");
        let handed = beside.drain().find_map(|part| match part {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let handed = UnixStream::from(handed.expect("a descriptor"));
        // Until it ends, it has the connection, too.
        guest.line = Some(ours);
        (asynchronous(handed), guest)
    }

    fn start(
        program: &Path,
        socket: &Path,
        (uid, gid, groups): (u32, u32, &[u32]),
        more: &[&str],
    ) -> (UnixStream, Self) {
        // The target directory may be private; whoever runs this must be able to read it.
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))
            .expect("it is ours");
        let copy = dir.path().join("be-somebody");
        std::fs::copy(program, &copy).expect("the program was built with the tests");
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
        command.arg(if groups.is_empty() {
            "--clear-groups".to_owned()
        } else {
            format!(
                "--groups={}",
                groups
                    .iter()
                    .map(u32::to_string)
                    .collect::<Vec<_>>()
                    .join(",")
            )
        });
        command
            .arg(&copy)
            .arg(socket)
            .args(more)
            .stdin(Stdio::from(OwnedFd::from(theirs)));
        let process = command.spawn().expect("setpriv is part of util-linux");
        let guest = Self {
            process,
            _program: dir,
            line: None,
        };
        (ours, guest)
    }
}

fn asynchronous(stream: UnixStream) -> tokio::net::UnixStream {
    stream.set_nonblocking(true).expect("it is a socket");
    tokio::net::UnixStream::from_std(stream).expect("within a runtime")
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It ends by itself when either side closes; not waiting for that keeps the test short.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
