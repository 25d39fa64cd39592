//! What a person asks of a sandbox, checked before it is judged.

use std::{num::NonZeroU16, path::PathBuf};

use paw_api::{
    ErrorKind,
    egress::NetRule,
    sandbox::{RunSpec as Asked, TerminalSize},
};
use paw_launch::{
    frame::{MAX_PAYLOAD, Size, Start},
    request::{Image, Isolation, Mount, MountSource, Runtime},
};
use paw_policy::Name;

use crate::config::AgentSettings;

/// The most mounts of one sandbox; the launcher takes no more either.
const MAX_MOUNTS: usize = 32;

/// What of a request can be checked before it is judged.
pub struct Checked {
    /// The runtime that was asked for; none for any that will do.
    pub runtime: Option<Runtime>,
    /// The weakest isolation that was asked for.
    pub floor: Isolation,
    pub(super) image: Option<Image>,
    pub(super) mounts: Vec<Mount>,
    /// Whose workspace it sees.
    pub(super) workspace: Option<Name>,
}

/// Checks a request to run a command.
///
/// # Errors
/// When it cannot be meant: kind `invalid`.
pub fn check(asked: &Asked) -> Result<Checked, paw_api::Error> {
    let invalid =
        |message: String, hint: &str| paw_api::Error::new(ErrorKind::Invalid, message, hint);
    if asked.argv.is_empty() || asked.argv[0].is_empty() {
        return Err(invalid("there is no command".into(), "put it after `--`"));
    }
    if asked.detach && asked.stdin {
        return Err(invalid(
            "a command whose asker leaves cannot be given input".into(),
            "leave out `detach` or `stdin`",
        ));
    }
    if let Some(size) = &asked.terminal {
        size_of(size)?;
        if asked.detach || asked.lines.is_some() {
            return Err(invalid(
                "a command has a terminal only for somebody who sits before it".into(),
                "leave out `terminal`, or `detach` and `lines`",
            ));
        }
    }
    if asked.lines.is_some() && !asked.net.is_empty() {
        return Err(invalid(
            "rounds are measured without a network".into(),
            "leave out `lines` or `net`",
        ));
    }
    let words = asked.argv.iter().chain(&asked.env);
    let places = asked
        .mounts
        .iter()
        .chain(&asked.image)
        .chain(&asked.workdir);
    if words.chain(places).any(|word| word.contains('\0')) {
        return Err(invalid(
            "an argument holds a zero byte".into(),
            "the kernel cannot pass it on",
        ));
    }
    if let Some(bad) = asked
        .env
        .iter()
        .find(|entry| entry.find('=').is_none_or(|at| at == 0))
    {
        return Err(invalid(
            format!("{bad:?} is no environment entry"),
            "write NAME=value",
        ));
    }
    if asked
        .workdir
        .as_ref()
        .is_some_and(|path| !path.starts_with('/'))
    {
        return Err(invalid(
            "the working directory is not absolute".into(),
            "begin it with /",
        ));
    }
    if told(asked) > MAX_PAYLOAD {
        return Err(invalid(
            format!("the command with its environment has more than {MAX_PAYLOAD} bytes"),
            "pass it through a file in the workspace, or through stdin",
        ));
    }
    if asked
        .io_weight
        .is_some_and(|weight| !(1..=10_000).contains(&weight))
    {
        return Err(invalid(
            "an io weight is 1 to 10000".into(),
            "100 is the usual",
        ));
    }
    if asked.mounts.len() > MAX_MOUNTS {
        return Err(invalid(
            format!(
                "{} mounts; at most {MAX_MOUNTS} are possible",
                asked.mounts.len()
            ),
            "mount fewer directories",
        ));
    }
    let runtime = match asked.runtime.as_deref() {
        None | Some("auto") => None,
        Some(name) => {
            let known = Runtime::ALL
                .into_iter()
                .find(|runtime| runtime.as_str() == name);
            Some(known.ok_or_else(|| {
                invalid(
                    format!("there is no runtime {name:?}"),
                    "use auto, native, gvisor or kata",
                )
            })?)
        }
    };
    let floor = match asked.isolation_floor.as_deref() {
        None => Isolation::Process,
        Some(name) => {
            let known = Isolation::ALL
                .into_iter()
                .find(|isolation| isolation.as_str() == name);
            known.ok_or_else(|| {
                invalid(
                    format!("there is no isolation {name:?}"),
                    "use process, kernel or vm",
                )
            })?
        }
    };
    let image = match asked.image.as_deref() {
        None => None,
        Some("host") => Some(Image::Host),
        Some(path) if path.starts_with('/') => Some(Image::Dir(PathBuf::from(path))),
        Some(name) => Some(Image::Named(name.parse().map_err(|_| {
            invalid(
                format!("{name:?} is no image"),
                "use the name of an installed image, an absolute directory, or host",
            )
        })?)),
    };
    let mounts = asked
        .mounts
        .iter()
        .map(|mount| parse_mount(mount))
        .collect::<Result<Vec<Mount>, _>>()?;
    let workspace = match asked.workspace.as_deref() {
        None => None,
        Some(name) => Some(
            name.parse()
                .map_err(|_| invalid(format!("{name:?} is no agent"), "see `pawctl agent list`"))?,
        ),
    };
    let own = PathBuf::from(super::run::WORKSPACE);
    let mut targets: Vec<&PathBuf> = mounts.iter().map(|mount| &mount.target).collect();
    targets.extend(workspace.as_ref().map(|_: &Name| &own));
    targets.sort();
    if let Some(twice) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(invalid(
            format!("{:?} is mounted on twice", twice[0]),
            "give each mount a target of its own",
        ));
    }
    Ok(Checked {
        runtime,
        floor,
        image,
        mounts,
        workspace,
    })
}

/// The size of a terminal.
///
/// # Errors
/// `invalid`, when no terminal has that size.
pub fn size_of(size: &TerminalSize) -> Result<Size, paw_api::Error> {
    let side = |characters: u32| {
        let characters = u16::try_from(characters).ok().and_then(NonZeroU16::new);
        characters.ok_or_else(|| {
            paw_api::Error::new(
                ErrorKind::Invalid,
                format!(
                    "no terminal has {} rows of {} columns",
                    size.rows, size.cols
                ),
                "both are 1 to 65535",
            )
        })
    };
    Ok(Size {
        rows: side(size.rows)?,
        cols: side(size.cols)?,
    })
}

/// Whether an agent's sandboxes may have these rules.
///
/// # Errors
/// `denied`, with the first that goes beyond what they may reach.
pub fn within(
    settings: &AgentSettings,
    rules: &[NetRule],
    agent: &Name,
) -> Result<(), paw_api::Error> {
    match settings.beyond(rules) {
        None => Ok(()),
        Some(rule) => Err(paw_api::Error::new(
            ErrorKind::Denied,
            format!("sandboxes of agent {agent} may not reach {rule}"),
            format!("have the administrator add it to net of [agent.{agent}] in pawd.toml"),
        )),
    }
}

/// How many bytes it takes to tell paw-init of it, which takes so many at once.
fn told(asked: &Asked) -> usize {
    let start = Start {
        argv: asked.argv.clone(),
        env: asked.env.clone(),
        cwd: asked.workdir.clone().unwrap_or_default(),
        terminal: asked.terminal.as_ref().and_then(|size| size_of(size).ok()),
    };
    serde_json::to_vec(&start).map_or(usize::MAX, |told| told.len())
}

fn parse_mount(text: &str) -> Result<Mount, paw_api::Error> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, writable) = match parts.as_slice() {
        [source, target] => (source, target, true),
        [source, target, "ro"] => (source, target, false),
        [source, target, "rw"] => (source, target, true),
        _ => {
            return Err(paw_api::Error::new(
                ErrorKind::Invalid,
                format!("{text:?} is no mount"),
                "write SRC:DST or SRC:DST:ro",
            ));
        }
    };
    if !source.starts_with('/') || !target.starts_with('/') {
        return Err(paw_api::Error::new(
            ErrorKind::Invalid,
            format!("{text:?} has a path that is not absolute"),
            "begin both with /",
        ));
    }
    Ok(Mount {
        source: MountSource::Path(source.into()),
        target: target.into(),
        writable,
    })
}
