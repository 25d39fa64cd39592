//! Who is at the other end of a Unix socket, as the kernel says.

use std::{io, os::fd::AsFd};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::sys;

/// The other side of a connected Unix socket, as it was when it connected.
///
/// The kernel translates the ids into the *caller's* user namespace: inside one, every id that is not mapped reads as the
/// overflow id (65534), whoever it is. Ask from the namespace in which the answer means something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process; by the time it is looked at, the number may belong to somebody else.
    pub pid: i32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Asks the kernel who is at the other end.
///
/// # Errors
/// When the descriptor is not a connected Unix socket.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let credentials = getsockopt(&socket, PeerCredentials)?;
    let groups = sys::peer_groups(socket.as_fd())?
        .into_iter()
        .map(nix::unistd::Gid::as_raw)
        .collect();
    Ok(Peer {
        uid: credentials.uid(),
        gid: credentials.gid(),
        pid: credentials.pid(),
        groups,
    })
}

/// The user at the other end, and nothing else about them.
///
/// # Errors
/// When the descriptor is not a connected Unix socket.
pub fn uid(socket: impl AsFd) -> io::Result<u32> {
    Ok(getsockopt(&socket, PeerCredentials)?.uid())
}

/// The longest name of a unit, as systemd has it.
const MAX_UNIT: usize = 255;

/// The unit of the service manager that a process is in, by its cgroup; none where it is in none, or is gone. Text for people: the number
/// of a process may belong to another one by now. It reads a file, for which the kernel may have to wait.
///
/// The host's units are in its slices and in nothing else. Within one, whoever it was given to makes groups of any name, as a user's manager or a
/// container does: those are named behind it, as `user@1000.service/cron.service`, so that they are never taken for the host's.
#[must_use]
pub fn unit(pid: i32) -> Option<String> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    unit_in(&groups)
}

fn unit_in(groups: &str) -> Option<String> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let is_unit = |name: &&str| {
        let is_unit = name.ends_with(".service") || name.ends_with(".scope");
        is_unit && name.len() <= MAX_UNIT && name.bytes().all(is_plain)
    };
    let below = path.strip_prefix('/')?.split('/');
    let mut below = below.skip_while(|name| name.ends_with(".slice"));
    let outermost = below.next().filter(is_unit)?;
    Some(match below.filter(is_unit).last() {
        Some(innermost) => format!("{outermost}/{innermost}"),
        None => outermost.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn unit_is_that_of_the_host_and_what_was_made_in_it_stands_behind() {
        let check = |path: &str, unit: Option<&str>| {
            let groups = format!("1:name=other:/x.service\n0::{path}\n");
            assert_eq!(unit_in(&groups).as_deref(), unit, "{path}");
        };
        check("/system.slice/cron.service", Some("cron.service"));
        check(
            "/user.slice/user-7.slice/user@7.service/app.slice/run-u3.scope",
            Some("user@7.service/run-u3.scope"),
        );
        check(
            "/user.slice/user-7.slice/user@7.service/app.slice/cron.service",
            Some("user@7.service/cron.service"),
        );
        check(
            "/system.slice/box.scope/system.slice/a.service/b.service",
            Some("box.scope/b.service"),
        );
        check(
            "/system.slice/pawd.service/sandboxes/one",
            Some("pawd.service"),
        );
        check("/system.slice/a\\x2db@1.service", Some("a\\x2db@1.service"));
        check("/docker/0123/cron.service", None);
        check("/lxc.payload.c/system.slice/ssh.service", None);
        check("/init.scope", Some("init.scope"));
        check("/", None);
        check("/../x.slice", None);
        check("/a b.service", None);
        check("/a\u{1b}[2J.service", None);
        check(&format!("/{}.service", "a".repeat(255)), None);
        assert_eq!(unit_in("1:cpu:/x.service\n"), None);
        assert_eq!(unit(-1), None);
    }

    #[test]
    fn peer_is_who_the_kernel_says() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = peer(&ours).unwrap();
        let expected = (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
            nix::unistd::getpid().as_raw(),
        );
        assert_eq!((peer.uid, peer.gid, peer.pid), expected);
        assert_eq!(uid(&ours).unwrap(), expected.0);
    }

    #[test]
    fn groups_of_the_peer_are_its_supplementary_groups() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let own: Vec<u32> = nix::unistd::getgroups()
            .unwrap()
            .into_iter()
            .map(nix::unistd::Gid::as_raw)
            .collect();
        assert_eq!(peer(&ours).unwrap().groups, own);
    }

    #[test]
    fn a_file_has_no_peer() {
        assert!(peer(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
