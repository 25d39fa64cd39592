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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

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
