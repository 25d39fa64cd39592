//! Tries to look into the process whose id is its only argument, in every way that a debugger or a thief has, and says what the
//! kernel answered: a line for each way, its name and `ok` or the name of the error.

#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::{
    env,
    fs::{self, File},
    io::{self, IoSliceMut, Read as _},
    process::ExitCode,
};

use nix::{
    errno::Errno,
    sys::{
        ptrace,
        uio::{RemoteIoVec, process_vm_readv},
        wait::waitpid,
    },
    unistd::Pid,
};

fn main() -> ExitCode {
    let Some(pid) = env::args().nth(1).and_then(|it| it.parse::<i32>().ok()) else {
        return ExitCode::FAILURE;
    };
    let pid = Pid::from_raw(pid);
    for name in ["mem", "environ", "maps", "auxv", "stack"] {
        said(name, read(pid, name));
    }
    said("fd", fs::read_dir(format!("/proc/{pid}/fd")).map(drop));
    said("cwd", fs::read_link(format!("/proc/{pid}/cwd")).map(drop));
    said("copy", copy(pid));
    said("attach", attach(pid));
    said(
        "seize",
        ptrace::seize(pid, ptrace::Options::empty()).map_err(io::Error::from),
    );
    ExitCode::SUCCESS
}

fn said(way: &str, answer: io::Result<()>) {
    let answer = match answer {
        Ok(()) => "ok".to_owned(),
        Err(error) => error.raw_os_error().map_or_else(
            || error.to_string(),
            |raw| format!("{:?}", Errno::from_raw(raw)),
        ),
    };
    println!("{way} {answer}");
}

/// Opens a file of the process; what the kernel asks for at the first byte, it is asked for, too.
fn read(pid: Pid, name: &str) -> io::Result<()> {
    let mut file = File::open(format!("/proc/{pid}/{name}"))?;
    match file.read(&mut [0; 16]) {
        // Nothing is mapped at its beginning.
        Err(error) if name == "mem" && error.raw_os_error() == Some(Errno::EIO as i32) => Ok(()),
        read => read.map(drop),
    }
}

/// Copies a byte of its memory; who may, learns that there is none at this place.
fn copy(pid: Pid) -> io::Result<()> {
    let mut byte = [0; 1];
    let there = RemoteIoVec { base: 0, len: 1 };
    match process_vm_readv(pid, &mut [IoSliceMut::new(&mut byte)], &[there]) {
        Ok(_) | Err(Errno::EFAULT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Stops it as a debugger does, and lets it go again.
fn attach(pid: Pid) -> io::Result<()> {
    ptrace::attach(pid)?;
    waitpid(pid, None)?;
    Ok(ptrace::detach(pid, None)?)
}
