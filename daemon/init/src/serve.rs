//! The loop: waits for the outside, for children and for their ends, and does the next small thing.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd},
};

use nix::{
    errno::Errno,
    sys::{
        epoll::EpollFlags,
        prctl,
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::{self, Pid},
};
use paw_launch::frame::{
    self, Credit, Exited, FrameError, Hello, MAX_PAYLOAD, NotStarted, Size, Start, Tag,
};
use rustix::process::{self, WaitOptions};
use serde::de::DeserializeOwned;

use crate::{
    child::{Child, set_nonblocking},
    inbox::{Filled, Inbox},
    net::{self, Net},
    outbox::Outbox,
    resume::resume,
    start::{failed, start},
    watch::{Interest, Watch},
};

/// How many commands may run at once, with those whose end is not forgotten; one more is answered with `EAGAIN`.
const MAX_CHILDREN: usize = 64;

/// Why there is no going on. Every one of them ends the sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// Bytes on stdin are no frame.
    #[error("unreadable frame on stdin: {0}")]
    Unreadable(FrameError),
    /// Stdin ended inside a frame.
    #[error("stdin ended inside a frame")]
    HalfFrame,
    /// A control frame is not what its tag says.
    #[error("control frame {tag:?}: {source}")]
    Control { tag: Tag, source: serde_json::Error },
    /// A frame that may not come at this point.
    #[error("{0}")]
    Broken(&'static str),
    /// A system call that must work did not.
    #[error("{step}: {errno}")]
    Kernel { step: &'static str, errno: Errno },
}

/// Serves the outside until it closes `stdin`; then everything that still runs is killed.
pub(crate) fn serve(stdin: impl AsFd, stdout: impl AsFd) -> Result<(), Fault> {
    let mut init = Init {
        children: BTreeMap::new(),
        net: Net::default(),
        inbox: Inbox::new(),
        outbox: Outbox::default(),
        scratch: vec![0; MAX_PAYLOAD],
    };
    let served = init.run(stdin.as_fd(), stdout.as_fd());
    // As PID 1 this is only politeness, since the kernel kills a PID namespace together with its first process.
    for child in init.children.values() {
        child.signal(Signal::SIGKILL);
    }
    served
}

/// Whether the outside still wants something.
#[derive(Debug, PartialEq, Eq)]
enum Outside {
    Open,
    Done,
}

/// Something that became ready. A command has, beside its number, which may be given again, its process id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Outside,
    Reader,
    ChildEnds,
    Stdin(u32, Option<Pid>),
    Stdout(u32, Option<Pid>),
    Stderr(u32, Option<Pid>),
    Port,
    Connection(u32),
}

struct Init {
    children: BTreeMap<u32, Child>,
    net: Net,
    inbox: Inbox,
    outbox: Outbox,
    scratch: Vec<u8>,
}

impl Init {
    fn run(&mut self, stdin: BorrowedFd<'_>, stdout: BorrowedFd<'_>) -> Result<(), Fault> {
        // The commands have our user. Without this they could read our memory and descriptors, and trace us where nothing forbids it.
        prctl::set_dumpable(false).map_err(|errno| Fault::Kernel {
            step: "become undumpable",
            errno,
        })?;
        let child_ends = child_ends().map_err(|errno| Fault::Kernel {
            step: "receive SIGCHLD",
            errno,
        })?;
        set_nonblocking(stdout).map_err(|errno| Fault::Kernel {
            step: "make stdout non-blocking",
            errno,
        })?;
        let mut watch = Watch::new().map_err(|errno| Fault::Kernel {
            step: "make a list of descriptors to watch",
            errno,
        })?;
        self.outbox.control(
            Tag::Hello,
            0,
            &Hello {
                version: frame::VERSION,
            },
        );
        loop {
            self.settle();
            self.outbox.flush(stdout).map_err(|errno| Fault::Kernel {
                step: "write to stdout",
                errno,
            })?;
            let ready = watch
                .wait(&self.open(stdin, stdout, child_ends.as_fd()))
                .map_err(|errno| Fault::Kernel {
                    step: "watch descriptors",
                    errno,
                })?;
            for (source, events) in ready {
                match source {
                    Source::Outside => {
                        if self.take(stdin)? == Outside::Done {
                            return Ok(());
                        }
                    }
                    // Room is used at the top of the loop; here only the news that there will never be any counts.
                    Source::Reader if events.contains(EpollFlags::EPOLLERR) => {
                        return Err(Fault::Kernel {
                            step: "write to stdout",
                            errno: Errno::EPIPE,
                        });
                    }
                    Source::Reader => {}
                    Source::ChildEnds => {
                        // One read empties it: SIGCHLD does not queue. Reaping asks for every end there is anyway.
                        let _ = child_ends.read_signal();
                        self.reap();
                    }
                    Source::Stdin(number, _) => {
                        if let Some(child) = self.children.get_mut(&number) {
                            // The reader of a pipe left, or the last one that had the terminal open.
                            if events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
                                child.stdin.reader_left(number, &mut self.outbox);
                            } else {
                                child.stdin.flush(number, &mut self.outbox);
                            }
                        }
                    }
                    Source::Stdout(number, _) => {
                        if let Some(child) = self.children.get_mut(&number) {
                            child
                                .stdout
                                .relay(number, &mut self.outbox, &mut self.scratch);
                        }
                    }
                    Source::Stderr(number, _) => {
                        if let Some(child) = self.children.get_mut(&number) {
                            child
                                .stderr
                                .relay(number, &mut self.outbox, &mut self.scratch);
                        }
                    }
                    Source::Port => self.net.accept(&mut self.outbox),
                    Source::Connection(number) => {
                        self.net.serve(number, &mut self.outbox, &mut self.scratch);
                    }
                }
            }
        }
    }

    /// Says what is to be said again, and the ends of children whose last words are said.
    fn settle(&mut self) {
        let Self {
            children,
            outbox,
            scratch,
            ..
        } = self;
        for (number, child) in children {
            child.settle(*number, outbox, scratch);
        }
    }

    /// Every open descriptor, with what is waited for on it. What must not be read now is not asked for, which is how full queues
    /// hold back whoever fills them.
    fn open<'a>(
        &'a self,
        stdin: BorrowedFd<'a>,
        stdout: BorrowedFd<'a>,
        child_ends: BorrowedFd<'a>,
    ) -> Vec<Interest<'a, Source>> {
        let when = |is: bool, events| if is { events } else { EpollFlags::empty() };
        let has_room = self.outbox.has_room();
        let readable = |is: bool| (is && has_room).then_some(EpollFlags::EPOLLIN);
        // Asked even without an event, because it tells when the outside stops reading for good.
        let writable = when(!self.outbox.is_empty(), EpollFlags::EPOLLOUT);
        let mut open = Vec::with_capacity(3 + 3 * self.children.len());
        let mut add = |source, fd, events| open.push(Interest { source, fd, events });
        add(Source::Reader, stdout, Some(writable));
        add(Source::ChildEnds, child_ends, Some(EpollFlags::EPOLLIN));
        add(Source::Outside, stdin, readable(true));
        for (number, child) in &self.children {
            if let Some(pipe) = child.stdin.pipe() {
                let events = when(child.stdin.is_waiting(), EpollFlags::EPOLLOUT);
                let source = Source::Stdin(*number, child.pid);
                add(source, pipe, has_room.then_some(events));
            }
            for (source, output) in [
                (Source::Stdout(*number, child.pid), &child.stdout),
                (Source::Stderr(*number, child.pid), &child.stderr),
            ] {
                if let Some(pipe) = output.pipe() {
                    let wanted = output.is_wanted() && !child.is_draining();
                    add(source, pipe, readable(wanted));
                }
            }
        }
        if let Some((port, takes_more)) = self.net.listener() {
            add(Source::Port, port, readable(takes_more));
        }
        for (number, socket, reads, writes) in self.net.connections() {
            let events = when(reads, EpollFlags::EPOLLIN) | when(writes, EpollFlags::EPOLLOUT);
            let wanted = has_room && !events.is_empty();
            add(Source::Connection(number), socket, wanted.then_some(events));
        }
        open
    }

    /// Reads from the outside once and does what the whole frames say.
    fn take(&mut self, stdin: BorrowedFd<'_>) -> Result<Outside, Fault> {
        let filled = self
            .inbox
            .fill(stdin, &mut self.scratch)
            .map_err(|errno| Fault::Kernel {
                step: "read stdin",
                errno,
            })?;
        let Self {
            children,
            net,
            inbox,
            outbox,
            ..
        } = self;
        while let Some((tag, number, payload)) = inbox.next().map_err(Fault::Unreadable)? {
            if tag == Tag::End {
                // What was still on its way behind it, such as the end of a command's input, concerns nobody any more.
                return Ok(Outside::Done);
            }
            obey(tag, number, payload, children, net, outbox)?;
        }
        match filled {
            Filled::Some => Ok(Outside::Open),
            Filled::End if inbox.has_half_a_frame() => Err(Fault::HalfFrame),
            Filled::End => Ok(Outside::Done),
        }
    }

    /// Reaps every process that has ended, also those that lost their parent.
    fn reap(&mut self) {
        // rustix, because nix cannot name a real-time signal: a command could end by one and never be reported.
        while let Ok(Some((pid, status))) = process::wait(WaitOptions::NOHANG) {
            let pid = Pid::from_raw(pid.as_raw_nonzero().get());
            let end = Exited {
                code: status.exit_status(),
                signal: status.terminating_signal(),
            };
            if let Some(child) = self
                .children
                .values_mut()
                .find(|child| child.pid == Some(pid) && !child.is_draining())
            {
                child.ended(end);
            }
        }
    }
}

/// Does what one frame says. A child that is gone already is no fault: its end and the frame crossed on the way.
fn obey(
    tag: Tag,
    number: u32,
    payload: &[u8],
    children: &mut BTreeMap<u32, Child>,
    net: &mut Net,
    outbox: &mut Outbox,
) -> Result<(), Fault> {
    let broken = |net::Broken(what)| Fault::Broken(what);
    match tag {
        Tag::EgressListen => net.listen(outbox),
        Tag::EgressData => net.data(number, payload, outbox).map_err(broken)?,
        Tag::EgressEnd => net.end(number, outbox).map_err(broken)?,
        Tag::EgressTaken => net
            .taken(number, control(tag, payload)?, outbox)
            .map_err(broken)?,
        Tag::Start => {
            if children.contains_key(&number) {
                return Err(Fault::Broken("start of a child whose number is in use"));
            }
            match begin(&control(tag, payload)?, children.len()) {
                Ok(child) => drop(children.insert(number, child)),
                // One too many is not kept either: that would be one more.
                Err(not_started) if children.len() >= MAX_CHILDREN => {
                    outbox.control(Tag::NotStarted, number, &not_started);
                }
                Err(not_started) => drop(children.insert(number, Child::failed(not_started))),
            }
        }
        Tag::Stdin => {
            // Nothing is said of a command after its end: input that crossed that on the way is nobody's.
            if let Some(child) = children.get_mut(&number).filter(|child| !child.is_told()) {
                let pushed = child.stdin.push(payload, number, outbox);
                pushed.map_err(|_| {
                    Fault::Broken("more bytes for a child's stdin than its window allows")
                })?;
            }
        }
        Tag::StdinEnd => {
            if let Some(child) = children.get_mut(&number) {
                child.stdin.end(number, outbox);
            }
        }
        Tag::Credit => {
            let credit: Credit = control(tag, payload)?;
            if let Some(child) = children.get_mut(&number) {
                child.stdout.credit(credit.stdout);
                child.stderr.credit(credit.stderr);
            }
        }
        Tag::Signal => {
            let asked: frame::Signal = control(tag, payload)?;
            let signal = Signal::try_from(asked.signal)
                .map_err(|_| Fault::Broken("a signal that does not exist"))?;
            if let Some(child) = children.get(&number) {
                child.signal(signal);
            }
        }
        Tag::Resize => {
            let size: Size = control(tag, payload)?;
            if let Some(child) = children.get(&number) {
                child.resize(size).map_err(|_| {
                    Fault::Broken("another size for a command that has no terminal")
                })?;
            }
        }
        Tag::Resume => {
            // Nobody outside knows of them any more.
            net.forget();
            resume(payload, children, outbox)
                .map_err(|_| Fault::Broken("a resume without a nonce"))?;
        }
        Tag::Forget => {
            // What runs has no end that could have been noted.
            if children.get(&number).is_some_and(Child::is_draining) {
                children.remove(&number);
            }
        }
        Tag::Hello
        | Tag::EgressOpen
        | Tag::Stdout
        | Tag::Stderr
        | Tag::Exited
        | Tag::NotStarted
        | Tag::StdinTaken => {
            return Err(Fault::Broken("a frame that only paw-init sends"));
        }
        // Neither comes here: the inbox joins parts, and the end is looked for before.
        Tag::Part | Tag::End => {}
    }
    Ok(())
}

fn begin(wanted: &Start, running: usize) -> Result<Child, NotStarted> {
    if running >= MAX_CHILDREN {
        return Err(failed("children", Errno::EAGAIN));
    }
    let started = start(wanted)?;
    Child::new(started).map_err(|errno| failed("pipes", errno))
}

fn control<T: DeserializeOwned>(tag: Tag, payload: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(payload).map_err(|source| Fault::Control { tag, source })
}

/// A descriptor that becomes readable when a child ended.
fn child_ends() -> Result<SignalFd, Errno> {
    if unistd::getpid() != Pid::from_raw(1) {
        // Where the runtime gives no PID namespace of its own, orphans still come to us.
        prctl::set_child_subreaper(true)?;
    }
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}
