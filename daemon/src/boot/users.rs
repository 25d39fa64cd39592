//! Who our processes become and which groups give roles: asked of the user database before the drop, because afterwards pawd
//! may not read it.

use std::{collections::BTreeMap, ffi::CString, fs, io::ErrorKind};

use anyhow::{Context as _, anyhow};
use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist};

use crate::{
    config::{Config, Paths},
    exit::Fatal,
    rpc::Roles,
};

/// How many names of users are remembered.
const MAX_NAMES: usize = 10_000;

/// A user and its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Everybody who matters.
#[derive(Debug, Clone)]
pub(super) struct People {
    /// Who pawd becomes.
    pub(super) own: Account,
    /// Supplementary groups of pawd: the one that may read the audit log.
    pub(super) groups: Vec<u32>,
    /// Who the launcher becomes; only where we start it.
    pub(super) launcher: Account,
    /// Who the audit writer becomes; only where we start it.
    pub(super) audit: Account,
    /// Who the egress broker becomes; only where we start it.
    pub(super) egress: Account,
    /// Who speaks with the shims of virtual machines; only where we start their launcher, and it is switched on.
    pub(super) shim: Option<Account>,
    /// The group whose members may connect to the control socket.
    pub(super) clients: Option<u32>,
    /// Which groups give which role.
    pub(super) roles: Roles,
    /// Names of users, for people.
    pub(super) names: BTreeMap<u32, String>,
    /// Whether all processes share the user that started us.
    pub(super) shared: bool,
}

/// Looks everybody up.
pub(super) fn resolve(config: &Config, paths: &Paths, standalone: bool) -> Result<People, Fatal> {
    let wanted = &config.confinement;
    let root = geteuid().is_root();
    if standalone && !root {
        let why = "a launcher of sandboxes needs ids of its own, which only root can give it";
        return Err(Fatal::Permission(anyhow!(
            "--standalone needs root: {why}; run it as root, it gives root up at once"
        )));
    }
    let here = Account {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
    };
    let (own, launcher, audit, egress) = if root {
        let own = account(&wanted.user)?;
        if standalone {
            (
                own,
                account(&wanted.launcher_user)?,
                account(&wanted.audit_user)?,
                account(&wanted.egress_user)?,
            )
        } else {
            (own, own, own, own)
        }
    } else {
        (here, here, here, here)
    };
    let shim = if standalone && kata_is_on(paths)? {
        Some(account(&wanted.shim_user)?)
    } else {
        None
    };
    let mut groups = if root {
        groups_of(&wanted.user, own.gid)?
    } else {
        Vec::new()
    };
    if standalone {
        let mut ids = vec![own.uid, launcher.uid, audit.uid, egress.uid];
        ids.extend(shim.map(|shim| shim.uid));
        let apart = ids
            .iter()
            .enumerate()
            .all(|(index, uid)| !ids[..index].contains(uid));
        if !apart {
            return Err(Fatal::Config(anyhow!(
                "pawd, the launcher, the audit writer, the egress broker and what speaks with shims must be users of their own; \
                 name them in [confinement]: who is one user with the audit writer could rewrite the log, and who is one with the broker could read its secrets"
            )));
        }
        // The log is readable for the writer's group, and pawd lists and verifies it.
        groups.push(audit.gid);
    }
    Ok(People {
        own,
        groups,
        launcher,
        audit,
        egress,
        shim,
        clients: group("paw")?,
        roles: roles(config, here, root)?,
        names: names(),
        shared: !root
            && User::from_uid(Uid::from_raw(here.uid))
                .ok()
                .flatten()
                .is_none_or(|user| user.name != wanted.user),
    })
}

/// Whether the launcher for virtual machines is switched on, in the file that is its own and that it checks itself.
fn kata_is_on(paths: &Paths) -> Result<bool, Fatal> {
    let path = paths.etc.join("launcher-kata.toml");
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        read => read
            .with_context(|| format!("read {}", path.display()))
            .map_err(Fatal::Config)?,
    };
    let table: toml::Table = toml::from_str(&text)
        .with_context(|| format!("understand {}", path.display()))
        .map_err(Fatal::Config)?;
    Ok(table
        .get("kata")
        .and_then(|kata| kata.get("enabled"))
        .and_then(toml::Value::as_bool)
        .unwrap_or(false))
}

fn account(name: &str) -> Result<Account, Fatal> {
    let found = User::from_name(name).with_context(|| format!("look up user {name}"))?;
    match found {
        Some(user) if user.uid.is_root() => Err(Fatal::Config(anyhow!(
            "user {name} is root; name another one in [confinement], pawd never runs as root"
        ))),
        Some(user) => Ok(Account {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        }),
        None => Err(Fatal::Permission(anyhow!(
            "there is no user {name}; make it with `systemd-sysusers pawd.conf`, or with \
             `useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {name}`"
        ))),
    }
}

/// Every group that the user database puts a user in, as a login would.
fn groups_of(name: &str, gid: u32) -> Result<Vec<u32>, Fatal> {
    let text = CString::new(name).context("name of a user")?;
    let groups = getgrouplist(&text, Gid::from_raw(gid))
        .with_context(|| format!("look up the groups of {name}"))?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}

fn group(name: &str) -> Result<Option<u32>, Fatal> {
    let found = Group::from_name(name).with_context(|| format!("look up group {name}"))?;
    Ok(found.map(|group| group.gid.as_raw()))
}

/// Groups that exist; one that does not exist gives nobody a role. Whoever starts pawd without being root owns it.
fn roles(config: &Config, here: Account, root: bool) -> Result<Roles, Fatal> {
    let ids = |name: &str| group(name).map(|found| found.into_iter().collect::<Vec<u32>>());
    Ok(Roles {
        admin: ids(&config.roles.admin)?,
        approver: ids(&config.roles.approver)?,
        user: ids(&config.roles.user)?,
        owner: (!root).then_some(here.uid),
    })
}

/// Names of the host's own users. Those of a directory service are shown as numbers, rather than asked for over the network.
fn names() -> BTreeMap<u32, String> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    text.lines().filter_map(entry).take(MAX_NAMES).collect()
}
