//! What tries to use more than it was given, or to stay longer. Each goes on until something stops it.

use std::{
    fs::File,
    io::Write as _,
    process::{Child, Command, ExitCode, Stdio},
};

use nix::sys::signal::{SigSet, Signal};

/// Starts one; returns only if it was told "no" and lived to say so.
pub(crate) fn explode(bomb: &str) -> ExitCode {
    match bomb {
        "memory" => memory(),
        "fork" => fork(),
        "disk" => disk(),
        "inode" => inode(),
        "files" => files(),
        "output" => output(),
        "sleep" => loop {
            nix::unistd::pause();
        },
        "stubborn" | "held" => wait_for_ever(),
        "daemon" => daemon(),
        "orphan" => orphan(),
        "detach" => detach(),
        _ => ExitCode::from(64),
    }
}

/// Touches page after page.
fn memory() -> ExitCode {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(vec![1; 1 << 20]);
    }
}

/// Starts itself again and again, until that fails; says how many there were.
fn fork() -> ExitCode {
    let mut children = Vec::new();
    // Far beyond every ceiling, so that a limit that is missing does not take the host down.
    while children.len() < 4_096 {
        match again("held") {
            Ok(child) => children.push(child),
            Err(_) => break,
        }
    }
    say(&format!("{}", children.len()));
    ExitCode::SUCCESS
}

/// Writes until there is no room; says how many bytes there was room for.
fn disk() -> ExitCode {
    let mut written = 0_u64;
    if let Ok(mut file) = File::create("/tmp/bomb") {
        let block = [1; 64 * 1024];
        while written < 1 << 40 {
            match file.write(&block) {
                Ok(bytes) if bytes > 0 => written += bytes as u64,
                Ok(_) | Err(_) => break,
            }
        }
    }
    say(&format!("{written}"));
    ExitCode::SUCCESS
}

/// Makes empty files until it may not; says how many.
fn inode() -> ExitCode {
    let mut made = 0_u64;
    while made < 10_000_000 && File::create(format!("/tmp/{made}")).is_ok() {
        made += 1;
    }
    say(&format!("{made}"));
    ExitCode::SUCCESS
}

/// Opens files and keeps them open until it may not; says how many it had, with those that it began with.
fn files() -> ExitCode {
    let begun = std::fs::read_dir("/proc/self/fd")
        // The directory that is read is one of them only meanwhile.
        .map_or(0, |open| open.count().saturating_sub(1));
    let mut kept = Vec::new();
    // Far beyond every ceiling, so that a limit that is missing does not take the host down.
    while kept.len() < 4_096 {
        match File::open("/dev/null") {
            Ok(file) => kept.push(file),
            Err(_) => break,
        }
    }
    // To say it takes none.
    say(&format!("{}", begun + kept.len()));
    ExitCode::SUCCESS
}

/// Never stops talking.
fn output() -> ExitCode {
    let line = [b'x'; 4096];
    let mut out = std::io::stdout();
    while out.write_all(&line).is_ok() {}
    ExitCode::SUCCESS
}

/// Ends at once, and leaves a child of a child behind, in a session of its own, that holds the pipes open and hears nothing.
fn orphan() -> ExitCode {
    match again("detach") {
        Ok(mut child) => match child.wait() {
            Ok(status) if status.success() => ExitCode::SUCCESS,
            Ok(_) | Err(_) => ExitCode::FAILURE,
        },
        Err(_) => ExitCode::FAILURE,
    }
}

/// Ends at once, and leaves a process behind that has a session of its own and holds nothing open.
fn daemon() -> ExitCode {
    let quiet = Command::new("/proc/self/exe")
        .arg("detach")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match quiet {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) | Err(_) => ExitCode::FAILURE,
    }
}

fn detach() -> ExitCode {
    match nix::unistd::setsid().map(|_| again("held")) {
        Ok(Ok(_)) => ExitCode::SUCCESS,
        Ok(Err(_)) | Err(_) => ExitCode::FAILURE,
    }
}

fn wait_for_ever() -> ExitCode {
    // What is blocked is not heard; SIGKILL cannot be.
    let polite: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect();
    let _ = polite.thread_block();
    loop {
        nix::unistd::pause();
    }
}

/// This program once more, with the same pipes.
fn again(bomb: &str) -> std::io::Result<Child> {
    Command::new("/proc/self/exe")
        .arg(bomb)
        .stdin(Stdio::null())
        .spawn()
}

fn say(line: &str) {
    // What cannot be said is seen from outside as silence.
    let _ = writeln!(std::io::stdout(), "{line}");
}
