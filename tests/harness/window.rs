//! A terminal with somebody before it, and a program that has it as its controlling one.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use crate::LIMIT;

/// How long a shell may take to show that it has heard a key.
const AGAIN: Duration = Duration::from_millis(500);

/// The terminal, and the program in it. The program is killed when this is dropped.
pub struct Window {
    keys: File,
    /// So that the terminal outlives the program, and can be looked at.
    _inner: OwnedFd,
    shown: Receiver<Vec<u8>>,
    seen: String,
    program: Child,
}

fn winsize(rows: u16, cols: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Window {
    /// Starts a program in a terminal of this size.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn open((rows, cols): (u16, u16), program: &Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keys = openpt(flags).expect("a terminal");
        grantpt(&keys).expect("it is ours");
        unlockpt(&keys).expect("it is ours");
        tcsetwinsize(&keys, winsize(rows, cols)).expect("it has a size");
        let name = ptsname(&keys, Vec::new()).expect("it has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let inner = open(name.as_c_str(), flags, Mode::empty()).expect("its other end");
        let end = || inner.try_clone().expect("once more");
        let started = Command::new("setsid")
            .arg("--ctty")
            .arg(program.get_program())
            .args(program.get_args())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("setsid is there");
        let keys = File::from(keys);
        let mut screen = keys.try_clone().expect("once more");
        let (to, shown) = channel();
        // Ends when the terminal does, or nobody looks.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut bytes) {
                if to.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            keys,
            _inner: inner,
            shown,
            seen: String::new(),
            program: started,
        }
    }

    /// Waits until this is shown; everything since the last time, up to it.
    ///
    /// # Panics
    /// When it is not.
    pub fn until(&mut self, what: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(at) = self.seen.find(what) {
                let rest = self.seen.split_off(at + what.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("{what:?} was not shown, but {:?}", self.seen),
            }
        }
    }

    /// Presses keys, and again until this is shown: a shell that is about to read looks at no signal any more, and one that a key makes
    /// just then is heard with the next.
    ///
    /// # Panics
    /// When it is not shown.
    pub fn press_until(&mut self, keys: &[u8], what: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.seen.contains(what) {
            assert!(
                Instant::now() < deadline,
                "{what:?} was not shown, but {:?}",
                self.seen
            );
            self.press(keys);
            if let Ok(bytes) = self.shown.recv_timeout(AGAIN) {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        self.until(what);
    }

    /// Presses keys.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).expect("the terminal is there");
    }

    /// Makes the window another size, which the kernel tells the program.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, cols: u16) {
        tcsetwinsize(&self.keys, winsize(rows, cols)).expect("the terminal is there");
    }

    /// Whether keys are lines and signals and are shown, as in a terminal that nobody has changed.
    ///
    /// # Panics
    /// When the terminal is gone.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        let usual = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        let modes = tcgetattr(&self.keys).expect("the terminal is there");
        modes.local_modes.contains(usual)
    }

    /// Sends the program a signal.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.program.id()).expect("process ids fit");
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    /// How the program ended.
    ///
    /// # Panics
    /// When its end cannot be known. It is killed by the test's own deadline if it does not come.
    pub fn end(&mut self) -> ExitStatus {
        self.program.wait().expect("it is our child")
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // One that has ended needs neither.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
