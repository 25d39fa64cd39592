//! What the loop waits for, in a list that the kernel keeps, so that it is told of changes alone.
//!
//! `poll` takes the whole list at every call and lets go of it afterwards, for which gVisor makes system calls of the host for each of
//! its ends: that was a fourth of the time that a line to a command and its answer took there.

use std::{
    collections::BTreeMap,
    os::fd::{AsRawFd as _, BorrowedFd, RawFd},
};

use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

/// How many events are taken at once; the others come with the next call.
const AT_ONCE: usize = 64;

/// An open descriptor, whose it is, and what is waited for on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interest<'a, S> {
    /// Never that of another descriptor, also not of a closed one that had the same number.
    pub(crate) source: S,
    pub(crate) fd: BorrowedFd<'a>,
    /// Errors and the end of a pipe's other side are told besides. `None`: nothing is told, not even those.
    pub(crate) events: Option<EpollFlags>,
}

/// What the kernel has of one descriptor.
struct Known<S> {
    /// By which its events are known; a new one for each that is added, so that those of a closed descriptor are nobody's.
    token: u64,
    source: S,
    events: Option<EpollFlags>,
}

/// The list.
pub(crate) struct Watch<S> {
    epoll: Epoll,
    known: BTreeMap<RawFd, Known<S>>,
    last: u64,
}

impl<S: Copy + Eq> Watch<S> {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            known: BTreeMap::new(),
            last: 0,
        })
    }

    /// Waits until something can be done. Every descriptor that was given once is given again until it is closed, by which it
    /// leaves the kernel's list.
    pub(crate) fn wait(&mut self, open: &[Interest<'_, S>]) -> Result<Vec<(S, EpollFlags)>, Errno> {
        self.known.retain(|fd, known| {
            let is = |it: &Interest<'_, S>| it.fd.as_raw_fd() == *fd && it.source == known.source;
            open.iter().any(is)
        });
        for interest in open {
            self.ask(interest)?;
        }
        let mut events = [EpollEvent::empty(); AT_ONCE];
        let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno),
        };
        let told = events.iter().take(count).filter_map(|event| {
            let mut known = self.known.values();
            let known = known.find(|it| it.token == event.data())?;
            known.events.map(|_| (known.source, event.events()))
        });
        Ok(told.collect())
    }

    /// Tells the kernel what it does not know yet.
    fn ask(&mut self, interest: &Interest<'_, S>) -> Result<(), Errno> {
        let Interest { source, fd, events } = *interest;
        // The kernel tells an end also of what nothing is asked of: once, that way.
        let flags = events.unwrap_or(EpollFlags::EPOLLONESHOT);
        match self.known.get_mut(&fd.as_raw_fd()) {
            Some(known) if known.events == events => {}
            Some(known) => {
                let mut event = EpollEvent::new(flags, known.token);
                self.epoll.modify(fd, &mut event)?;
                known.events = events;
            }
            None => {
                self.last += 1;
                let token = self.last;
                self.epoll.add(fd, EpollEvent::new(flags, token))?;
                let known = Known {
                    token,
                    source,
                    events,
                };
                self.known.insert(fd.as_raw_fd(), known);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Write as _, pipe},
        os::fd::{AsFd as _, OwnedFd},
    };

    use nix::unistd::dup2;

    use super::*;

    const READABLE: Option<EpollFlags> = Some(EpollFlags::EPOLLIN);

    fn of<S>(source: S, fd: BorrowedFd<'_>, events: Option<EpollFlags>) -> Interest<'_, S> {
        Interest { source, fd, events }
    }

    fn sources(told: &[(char, EpollFlags)]) -> String {
        told.iter().map(|(source, _)| *source).collect()
    }

    #[test]
    fn what_is_held_back_is_not_told_and_is_told_when_it_is_wanted_again() {
        let mut watch = Watch::new().unwrap();
        let ((a, mut to_a), (b, to_b)) = (pipe().unwrap(), pipe().unwrap());
        to_a.write_all(b"x").unwrap();
        let told = watch
            .wait(&[of('a', a.as_fd(), READABLE), of('b', b.as_fd(), READABLE)])
            .unwrap();
        assert_eq!(sources(&told), "a");

        // Its writer leaves while nothing is asked of it: only the other one is told, however often it is looked at.
        drop(to_b);
        for _ in 0..3 {
            let held = watch
                .wait(&[of('a', a.as_fd(), READABLE), of('b', b.as_fd(), None)])
                .unwrap();
            assert_eq!(sources(&held), "a");
        }
        let told = watch
            .wait(&[of('a', a.as_fd(), None), of('b', b.as_fd(), READABLE)])
            .unwrap();
        assert_eq!(sources(&told), "b");
        assert!(told[0].1.contains(EpollFlags::EPOLLHUP));
    }

    #[test]
    fn descriptor_with_the_number_of_a_closed_one_is_watched_anew() {
        let mut watch = Watch::new().unwrap();
        let (first, mut to_first) = pipe().unwrap();
        let mut first = OwnedFd::from(first);
        to_first.write_all(b"x").unwrap();
        let told = watch.wait(&[of('a', first.as_fd(), READABLE)]).unwrap();
        assert_eq!(sources(&told), "a");

        // At once, so that no test beside this one takes the number in between.
        let (second, mut to_second) = pipe().unwrap();
        dup2(second, &mut first).unwrap();
        to_second.write_all(b"x").unwrap();
        let told = watch.wait(&[of('b', first.as_fd(), READABLE)]).unwrap();
        assert_eq!(sources(&told), "b");
    }
}
