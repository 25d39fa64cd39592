//! Going on with a sandbox that an earlier pawd had made. See [`paw_launch::resume`] for what is said.

use std::{collections::BTreeMap, io::Cursor, sync::atomic::Ordering, time::Duration};

use nix::sys::signal::Signal;
use paw_launch::{
    frame::{Tag, WINDOW},
    request::{Attestation, End, SandboxId, Usage},
    resume::{Nonce, ResumedChild, Seeker},
};
use tokio::{io::AsyncReadExt as _, time::timeout};
use tracing::warn;

use super::{
    Launcher,
    frames::{Child, Sandbox, SandboxError},
    keep::{Command, Saved},
    launcher::{Attached, Made},
    wire::data,
};

/// How long paw-init may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The most bytes that may come before its answer: what fits into the largest pipe, and every window of every command.
const MOST: u64 = 1024 * 1024 + 2 * 64 * WINDOW as u64;

/// What became of it.
pub enum Adopted {
    /// It runs, and is ours.
    Running {
        /// The sandbox.
        sandbox: Box<Sandbox>,
        /// Its commands whose end is not noted yet, by number.
        commands: BTreeMap<u32, Going>,
    },
    /// It ended meanwhile.
    Ended(End, Usage),
}

/// A command that an earlier pawd had started.
pub struct Going {
    /// What it says from now on.
    pub child: Child,
    /// Whether it waits for input that nobody has any more.
    pub is_starved: bool,
}

/// Takes on a sandbox; `saved` is what is noted of it.
///
/// # Errors
/// When it is not there any more, or is not what it was; then it is killed.
pub async fn adopt(
    launcher: &Launcher,
    id: &SandboxId,
    saved: &Saved,
) -> Result<Adopted, SandboxError> {
    let (attestation, made) = match launcher.attach(id.clone()).await? {
        Attached::Ended(end, usage) => return Ok(Adopted::Ended(end, usage)),
        Attached::Running(attestation, made) => (attestation, made),
    };
    if attestation.digest != saved.about.attestation.digest {
        launcher.doom(id.clone());
        return Err(not_resumed(id, "its attestation is another one"));
    }
    match timeout(ANSWER_LIMIT, resume(launcher, id, saved, attestation, made)).await {
        Ok(resumed) => resumed,
        Err(_) => Err(not_resumed(id, "its paw-init does not answer")),
    }
}

async fn resume(
    launcher: &Launcher,
    id: &SandboxId,
    saved: &Saved,
    attestation: Box<Attestation>,
    made: Made,
) -> Result<Adopted, SandboxError> {
    let (mut sandbox, mut reader) =
        Sandbox::unheard(id.clone(), attestation, made, launcher.clone())?;
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(|error| not_resumed(id, &error.to_string()))?;
    // The queue is empty, so this does not wait for a paw-init that reads nothing before we do.
    drop(sandbox.frames.send(data(Tag::Resume, 0, &nonce)).await);
    let mut seeker = Seeker::new(&nonce, MOST);
    let mut buffer = vec![0; 64 * 1024];
    let (resumed, behind) = loop {
        let read = reader.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            return Err(SandboxError::Gone);
        }
        match seeker.take(&buffer[..read]) {
            Ok(None) => {}
            Ok(Some(found)) => break found,
            Err(error) => return Err(not_resumed(id, &paw_log::Chain(&error).to_string())),
        }
    };
    let mut commands = BTreeMap::new();
    let mut strangers = Vec::new();
    for heard in resumed.children {
        let noted = saved.commands.iter().find(|it| it.number == heard.number);
        let going = enter(&sandbox, noted, &heard)?;
        match noted {
            // Its end is noted, so nobody has to hear it again: dropping it says so.
            Some(Command { exit: Some(_), .. }) => {}
            Some(_) => drop(commands.insert(heard.number, going)),
            None => strangers.push(going),
        }
    }
    let numbers = saved.commands.iter().map(|command| command.number);
    let highest = numbers.chain(commands.keys().copied()).max().unwrap_or(0);
    sandbox.starter.next.store(highest, Ordering::Relaxed);
    sandbox.listen(Cursor::new(behind).chain(reader));
    for stranger in strangers {
        warn!(paw_sandbox = %id, "a command that is not noted runs in a sandbox; it is killed");
        drop(stranger.child.process.signal(Signal::SIGKILL).await);
    }
    Ok(Adopted::Running {
        sandbox: Box::new(sandbox),
        commands,
    })
}

/// Makes room for what a command goes on to say, without what is noted already.
fn enter(
    sandbox: &Sandbox,
    noted: Option<&Command>,
    heard: &ResumedChild,
) -> Result<Going, SandboxError> {
    // Of a command whose output is not kept, what was acknowledged was passed on.
    let noted = noted.filter(|command| command.kept).map_or(
        (
            heard.stdout,
            heard.stderr,
            noted.map_or(0, |it| it.most_output),
        ),
        |command| (command.stdout, command.stderr, command.most_output),
    );
    let (stdout, stderr, most_output) = noted;
    let again = |had: u64, acknowledged: u64| {
        usize::try_from(had.saturating_sub(acknowledged)).unwrap_or(0)
    };
    let known = [again(stdout, heard.stdout), again(stderr, heard.stderr)];
    let room = most_output.saturating_sub(stdout.saturating_add(stderr));
    // No input can be sent: whoever had it was connected to the earlier pawd.
    let child = sandbox
        .starter
        .enter(heard.number, String::new(), known, room, 0)?;
    if stdout < heard.stdout || stderr < heard.stderr {
        // What was acknowledged beyond the bound was thrown away; otherwise it could not be noted.
        child.process.truncated.store(true, Ordering::Relaxed);
    }
    Ok(Going {
        child,
        is_starved: heard.takes_input,
    })
}

fn not_resumed(id: &SandboxId, why: &str) -> SandboxError {
    SandboxError::NotResumed {
        id: id.clone(),
        why: why.to_owned(),
    }
}
