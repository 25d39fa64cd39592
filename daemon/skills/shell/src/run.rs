//! One program: its input, its output up to a bound, its end.

use std::{
    io::{self, Read, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;

/// Most bytes that are kept of each stream. Control characters grow sixfold in JSON, and the whole answer must stay below a line of
/// 1 MiB.
pub(crate) const MAX_OUTPUT: usize = 64 * 1024;

/// How long streams may stay open after the end of the program and of its group, by what left the group.
const LINGER: Duration = Duration::from_millis(200);

/// How a program ended.
#[derive(Debug, Serialize)]
pub(crate) struct Ran {
    /// None where a signal ended it.
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    #[serde(skip)]
    pub(crate) stdout: String,
    #[serde(skip)]
    pub(crate) stderr: String,
    /// Whether there was more output than is kept.
    pub(crate) truncated: bool,
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    more: bool,
}

/// Runs it to its end. What it leaves behind in its process group ends with it.
pub(crate) fn run(mut command: Command, input: Option<String>) -> io::Result<Ran> {
    let mut child = command
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // Whoever does not read it is not waited for.
        thread::spawn(move || stdin.write_all(input.as_bytes()));
    }
    let (told, ended) = mpsc::channel();
    let stdout = keep(child.stdout.take(), told.clone());
    let stderr = keep(child.stderr.take(), told);
    let status = child.wait()?;
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Nobody may be left in it.
        let _ = kill_process_group(group, Signal::KILL);
    }
    for _ in 0..2 {
        if ended.recv_timeout(LINGER).is_err() {
            break;
        }
    }
    let (stdout, stderr) = (take(&stdout), take(&stderr));
    Ok(Ran {
        exit_code: status.code(),
        signal: status.signal(),
        truncated: stdout.more || stderr.more,
        stdout: String::from_utf8_lossy(&stdout.bytes).into_owned(),
        stderr: String::from_utf8_lossy(&stderr.bytes).into_owned(),
    })
}

/// Reads a stream to its end, and keeps the beginning.
fn keep(stream: Option<impl Read + Send + 'static>, told: mpsc::Sender<()>) -> Arc<Mutex<Kept>> {
    let kept = Arc::new(Mutex::new(Kept::default()));
    let into = Arc::clone(&kept);
    thread::spawn(move || {
        let mut stream = stream;
        let mut buffer = vec![0; 16 * 1024];
        while let Some(from) = &mut stream {
            let count = match from.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            let mut into = into.lock().unwrap_or_else(PoisonError::into_inner);
            let room = MAX_OUTPUT - into.bytes.len();
            into.bytes.extend_from_slice(&buffer[..count.min(room)]);
            into.more |= count > room;
        }
        // Nobody listens any more when something outside of the group held the stream.
        let _ = told.send(());
    });
    kept
}

fn take(kept: &Mutex<Kept>) -> Kept {
    std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner))
}
