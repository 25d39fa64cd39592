//! Who is calling: what the kernel says about the other end of a connection, and the role that follows from it.
//!
//! Nothing in here comes from a message. Roles are given to groups; the numbers of the groups come in from the
//! configuration, so that this module asks no user database.

use std::{fmt, sync::Arc};

use jsonrpsee::Extensions;
use paw_api::error::{Error, ErrorKind};
use paw_policy::Role;
use paw_store::Caller;

/// Which groups have which role. A group may be in several lists; the highest role counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles {
    /// Group ids of administrators.
    pub admin: Vec<u32>,
    /// Group ids of approvers.
    pub approver: Vec<u32>,
    /// Group ids of users.
    pub user: Vec<u32>,
    /// Who started pawd without being root, and so owns it: an administrator, by user id and never by group.
    pub owner: Option<u32>,
}

impl Roles {
    /// The highest role of somebody with these ids; root is an administrator, and who is in no group has none.
    #[must_use]
    pub fn of(&self, who: &paw_confine::peer::Peer) -> Option<Role> {
        let within = |groups: &[u32]| {
            groups.contains(&who.gid) || who.groups.iter().any(|gid| groups.contains(gid))
        };
        if who.uid == 0 || self.owner == Some(who.uid) || within(&self.admin) {
            Some(Role::Admin)
        } else if within(&self.approver) {
            Some(Role::Approver)
        } else if within(&self.user) {
            Some(Role::User)
        } else {
            None
        }
    }
}

/// Who is at the other end of a connection. Each handler finds it in its `Extensions`; see [`caller`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id when it connected; for people, never for decisions.
    pub pid: i32,
    /// What it may do; without one, nothing.
    pub role: Option<Role>,
    /// Name of the user, where known.
    pub name: Option<Arc<str>>,
    /// The unit of the service manager that it was in when it connected, where it was in one; for people, too.
    pub unit: Option<Arc<str>>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} (uid {})", self.uid),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

/// Makes a [`Peer`] of what the kernel reports.
pub type Identify = Arc<dyn Fn(paw_confine::peer::Peer) -> Peer + Send + Sync>;

/// The usual [`Identify`]: roles by group, names from `name_of`, which must answer at once.
pub fn identify(
    roles: Roles,
    name_of: impl Fn(u32) -> Option<String> + Send + Sync + 'static,
) -> Identify {
    Arc::new(move |who| Peer {
        role: roles.of(&who),
        name: name_of(who.uid).map(Arc::from),
        uid: who.uid,
        gid: who.gid,
        pid: who.pid,
        unit: None,
    })
}

/// The caller of the method that is being handled.
///
/// # Errors
/// `internal` when the call did not come through the gate, which puts the peer there. Nobody is assumed.
pub fn caller(extensions: &Extensions) -> Result<Caller, Error> {
    extensions
        .get::<Peer>()
        .and_then(|peer| {
            let name = peer.name.as_deref().map(str::to_owned);
            peer.role.map(|role| Caller {
                uid: peer.uid,
                gid: peer.gid,
                pid: peer.pid,
                role,
                name,
                unit: peer.unit.as_deref().map(str::to_owned),
            })
        })
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "the caller of this method is not known",
                "report this as a bug of pawd",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uid: u32, gid: u32, groups: &[u32], expected: Option<Role>) {
        let roles = Roles {
            admin: vec![10],
            approver: vec![20],
            user: vec![30, 31],
            owner: Some(700),
        };
        let who = paw_confine::peer::Peer {
            uid,
            gid,
            pid: 1,
            groups: groups.to_vec(),
        };
        assert_eq!(
            roles.of(&who),
            expected,
            "uid {uid} gid {gid} groups {groups:?}"
        );
    }

    #[test]
    fn the_highest_role_that_ids_give_counts() {
        check(0, 0, &[], Some(Role::Admin));
        check(1000, 10, &[], Some(Role::Admin));
        check(1000, 1000, &[30, 10], Some(Role::Admin));
        check(1000, 1000, &[30, 20], Some(Role::Approver));
        check(1000, 31, &[], Some(Role::User));
        check(1000, 1000, &[4, 5], None);
        check(1000, 0, &[0], None);
        check(65534, 65534, &[], None);
        check(700, 1000, &[], Some(Role::Admin));
        check(1000, 700, &[700], None);
    }

    #[test]
    fn without_a_role_nobody_is_a_caller() {
        let mut extensions = Extensions::new();
        assert_eq!(
            caller(&extensions).unwrap_err().data.kind,
            ErrorKind::Internal
        );
        extensions.insert(Peer {
            uid: 5,
            gid: 5,
            pid: 1,
            role: None,
            name: None,
            unit: None,
        });
        assert_eq!(
            caller(&extensions).unwrap_err().data.kind,
            ErrorKind::Internal
        );
    }
}
