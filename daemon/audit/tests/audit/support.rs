//! Logs to look at, and a running paw-audit to talk to.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    ops::{Deref, DerefMut},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _, chown},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{PoisonError, RwLock, RwLockReadGuard},
    time::Instant,
};

use command_fds::{CommandFdExt as _, FdMapping};
use paw_api::audit::{Actor, Answer, Append, Entry, Event, Signed};
use paw_audit::{
    Log, LogError,
    format::Stamp,
    log::{Place, SEGMENT_AGE},
};
use paw_policy::{Kind, Risk};
use uuid::Uuid;

/// A child has a copy of every descriptor, the lock of a log too, until it executes its program. So no log is open while another test
/// of this process starts a child.
static CHILDREN: RwLock<()> = RwLock::new(());

/// Starts a child while no log is open.
pub(crate) fn apart<T>(start: impl FnOnce() -> T) -> T {
    let _no_log_is_open = CHILDREN.write().unwrap_or_else(PoisonError::into_inner);
    start()
}

/// A log that is open while no child is started.
#[derive(Debug)]
pub(crate) struct Opened {
    // Closed first.
    log: Log,
    _no_child_is_started: RwLockReadGuard<'static, ()>,
}

impl Deref for Opened {
    type Target = Log;

    fn deref(&self) -> &Log {
        &self.log
    }
}

impl DerefMut for Opened {
    fn deref_mut(&mut self) -> &mut Log {
        &mut self.log
    }
}

/// Opens a log. A test has one open at a time.
pub(crate) fn open(place: Place) -> Result<Opened, LogError> {
    let guard = CHILDREN.read().unwrap_or_else(PoisonError::into_inner);
    Ok(Opened {
        log: Log::open(place)?,
        _no_child_is_started: guard,
    })
}

/// The user that paw-audit becomes when the tests run as root: nobody.
const NOBODY: u32 = 65534;

pub(crate) struct Dirs {
    _root: tempfile::TempDir,
    pub(crate) log: PathBuf,
    pub(crate) state: PathBuf,
    socket: PathBuf,
}

impl Dirs {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (log, state) = (root.path().join("log"), root.path().join("state"));
        let socket = root.path().join("audit.sock");
        let dirs = Self {
            _root: root,
            log,
            state,
            socket,
        };
        for dir in [&dirs.log, &dirs.state] {
            fs::create_dir(dir).unwrap();
        }
        dirs.own();
        dirs
    }

    /// Gives what is there to the user that paw-audit becomes.
    pub(crate) fn own(&self) {
        if my_uid() != 0 {
            return;
        }
        for dir in [&self.log, &self.state] {
            chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
            for entry in fs::read_dir(dir).unwrap() {
                chown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
    }

    pub(crate) fn place(&self, segment_bytes: u64) -> Place {
        let boot_id = "00000000-0000-4000-8000-000000000000".to_owned();
        Place {
            dir: self.log.clone(),
            state: self.state.clone(),
            boot_id,
            segment_bytes,
            segment_age: SEGMENT_AGE,
            keep: None,
        }
    }

    /// A closed log with so many records, in segments of at most about this size.
    pub(crate) fn with_log(records: u64, segment_bytes: u64) -> Self {
        let dirs = Self::new();
        dirs.write(1, records, segment_bytes);
        dirs
    }

    pub(crate) fn write(&self, first: u64, records: u64, segment_bytes: u64) {
        let mut log = open(self.place(segment_bytes)).unwrap();
        for n in first..first + records {
            log.append(&entry(n), Stamp::now());
            if n % 50 == 0 {
                log.seal(Stamp::now()).unwrap();
            }
        }
        log.commit(false, Instant::now()).unwrap();
        log.seal(Stamp::now()).unwrap();
    }

    pub(crate) fn segment(&self, number: u32) -> PathBuf {
        paw_audit::segment::path(&self.log, number)
    }
}

pub(crate) fn my_uid() -> u32 {
    fs::metadata("/proc/self").unwrap().uid()
}

pub(crate) fn entry(n: u64) -> Entry {
    let mut entry = Entry::new(if n.is_multiple_of(3) {
        Event::ActionEnded
    } else {
        Event::ActionStarted
    });
    entry.action = Some(Uuid::from_u128(u128::from(n / 10)));
    entry.actor = Some(Actor {
        uid: 1000,
        gid: 1000,
        pid: 7,
        role: None,
        unit: None,
    });
    entry.kind = Some(Kind::Chat);
    entry.risk = Some(Risk::Low);
    entry
        .detail
        .insert("n".into(), format!("number {n} \"quoted\" \n ü"));
    entry
}

/// A running paw-audit.
pub(crate) struct Writer {
    child: Child,
    lifeline: Option<std::io::PipeWriter>,
}

impl Writer {
    pub(crate) fn start(dirs: &Dirs) -> Self {
        Self::start_for(dirs, my_uid())
    }

    pub(crate) fn start_for(dirs: &Dirs, peer: u32) -> Self {
        let _ = fs::remove_file(&dirs.socket);
        let listener = UnixListener::bind(&dirs.socket).unwrap();
        let (pipe, lifeline) = std::io::pipe().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_paw-audit"));
        command.args([
            "--listen-fd",
            "3",
            "--lifeline-fd",
            "4",
            "--peer-uid",
            &peer.to_string(),
        ]);
        command
            .arg("--log-dir")
            .arg(&dirs.log)
            .arg("--state")
            .arg(&dirs.state);
        if my_uid() == 0 {
            command.args(["--uid", &NOBODY.to_string(), "--gid", &NOBODY.to_string()]);
        }
        command
            .env("PAWD_LOG", "warn")
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mapping = |parent_fd: OwnedFd, child_fd| FdMapping {
            parent_fd,
            child_fd,
        };
        command
            .fd_mappings(vec![mapping(listener.into(), 3), mapping(pipe.into(), 4)])
            .unwrap();
        Self {
            child: apart(|| command.spawn()).unwrap(),
            lifeline: Some(lifeline),
        }
    }

    /// Has the program go on with a new first key, and returns what it writes.
    pub(crate) fn hand_out_key(dirs: &Dirs) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_paw-audit"));
        command.arg("--hand-out-key");
        command
            .arg("--log-dir")
            .arg(&dirs.log)
            .arg("--state")
            .arg(&dirs.state);
        if my_uid() == 0 {
            command.args(["--uid", &NOBODY.to_string(), "--gid", &NOBODY.to_string()]);
        }
        let done = apart(|| command.output()).unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(mut self) -> (ExitStatus, String) {
        let mut kill = Command::new("kill");
        kill.arg(self.child.id().to_string());
        let status = apart(|| kill.status()).unwrap();
        assert!(status.success());
        self.end()
    }

    pub(crate) fn cut_lifeline(mut self) -> (ExitStatus, String) {
        drop(self.lifeline.take());
        self.end()
    }

    /// Waits for an end that comes by itself.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut said).unwrap();
        (self.child.wait().unwrap(), said)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Already gone in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection to it.
pub(crate) struct Client {
    stream: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Client {
    pub(crate) fn connect(dirs: &Dirs) -> Self {
        let stream = UnixStream::connect(&dirs.socket).unwrap();
        // A writer that does not answer fails the test instead of holding it up.
        stream
            .set_read_timeout(Some(std::time::Duration::from_secs(30)))
            .unwrap();
        Self {
            answers: BufReader::new(stream.try_clone().unwrap()),
            stream,
        }
    }

    pub(crate) fn ask(&mut self, n: u64, durable: bool) {
        let mut line = serde_json::to_vec(&Append {
            seq: n,
            durable,
            record: entry(n),
        })
        .unwrap();
        line.push(b'\n');
        self.send(&line);
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next answer; `None` when the connection is closed.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => match serde_json::from_str(&line).unwrap() {
                Answer::Hello(_) | Answer::Signed(_) | Answer::Room => self.answer(),
                answer => Some(answer),
            },
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// The next signature that the writer tells of.
    pub(crate) fn signed(&mut self) -> Signed {
        loop {
            if let Answer::Signed(signed) = self.news() {
                return signed;
            }
        }
    }

    /// The next that the writer tells of, whatever it is about.
    pub(crate) fn news(&mut self) -> Answer {
        let mut line = String::new();
        assert!(self.answers.read_line(&mut line).expect("in time") > 0);
        serde_json::from_str(&line).unwrap()
    }

    pub(crate) fn append(&mut self, n: u64, durable: bool) -> Answer {
        self.ask(n, durable);
        self.answer().expect("an answer")
    }
}

pub(crate) fn audit_seq(answer: &Answer) -> u64 {
    match answer {
        Answer::Appended(appended) => appended.audit_seq,
        other => panic!("not appended: {other:?}"),
    }
}

/// The lines of a file, with their ends.
pub(crate) fn lines(path: &Path) -> Vec<Vec<u8>> {
    fs::read(path)
        .unwrap()
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}
