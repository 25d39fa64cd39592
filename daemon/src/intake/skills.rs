//! A change of a skill: what was sent and what is installed become a plan that says all of it.

use paw_api::{Error, ErrorKind};
use paw_policy::{Name, Operation, SkillArguments, SkillChange};
use serde_json::Map;

use super::{
    Asked,
    arguments::{SkillAsked, read},
};
use crate::{
    records::shorten,
    sandbox::Skill,
    skills::{Installed, SkillError, announced, difference, rights},
};

/// The plan of what is asked.
pub(super) fn change(installed: &Installed, asked: Asked) -> Result<Operation, Error> {
    let SkillAsked {
        change,
        skill,
        digest,
    } = read(asked.arguments)?;
    let name: Name = skill
        .parse()
        .map_err(|_| not_found(&skill, "see `pawctl skill list`"))?;
    let current = installed.get(&name);
    let old = current.as_ref().and_then(|shown| shown.skill.clone());
    let replaces = current.as_ref().map(|shown| shown.pin.digest);
    let arguments = match (change, digest) {
        (SkillChange::Install, Some(digest)) => {
            let staged = installed
                .find_staged(&digest)
                .filter(|staged| staged.name == name)
                .ok_or_else(|| {
                    let error = SkillError::NotStaged(digest);
                    Error::new(ErrorKind::NotFound, error.to_string(), error.remedy())
                })?;
            SkillArguments {
                change,
                skill: name,
                version: staged.version.clone(),
                digest,
                replaces,
                rights: rights(&staged),
                difference: difference(old.as_deref(), Some(&staged)),
                announced: None,
            }
        }
        (SkillChange::Enable | SkillChange::Remove, None) => {
            let Some(shown) = current else {
                return Err(not_found(&skill, "see `pawctl skill list`"));
            };
            let (rights, difference) = match (change, &old) {
                (SkillChange::Enable, None) => {
                    let why = shown.pin.why.unwrap_or_default();
                    let message = format!("skill {name} cannot be enabled: {why}");
                    let hint = "install it again, or remove it";
                    return Err(Error::new(ErrorKind::Conflict, message, hint));
                }
                (SkillChange::Enable, Some(skill)) => {
                    let tools = shown
                        .pin
                        .heard
                        .as_ref()
                        .map_or(&shown.pin.tools, |it| &it.tools);
                    let mut as_heard = Skill::clone(skill);
                    if skill.announces {
                        as_heard.tools.clone_from(tools);
                    }
                    let mut lines = difference(None, Some(&as_heard));
                    if skill.announces {
                        lines.extend(announced(&shown.pin.tools, tools));
                    }
                    (rights(skill), lines)
                }
                (SkillChange::Install | SkillChange::Remove, old) => {
                    (Map::new(), difference(old.as_deref(), None))
                }
            };
            let heard = shown.pin.heard.as_ref().map(|heard| heard.digest);
            SkillArguments {
                change,
                announced: match change {
                    SkillChange::Enable => heard.or(shown.pin.announced),
                    SkillChange::Install | SkillChange::Remove => None,
                },
                skill: name,
                version: shown.pin.version,
                digest: shown.pin.digest,
                replaces,
                rights,
                difference,
            }
        }
        (SkillChange::Install, None) => {
            return Err(Error::new(
                ErrorKind::Invalid,
                "an installation names the digest of what was sent",
                "use `pawctl skill install PATH`, which does",
            ));
        }
        (SkillChange::Enable | SkillChange::Remove, Some(_)) => {
            return Err(Error::new(
                ErrorKind::Invalid,
                "only an installation names a digest",
                "leave it out; what is installed is meant",
            ));
        }
    };
    Ok(Operation::SkillChange(arguments))
}

fn not_found(name: &str, hint: &str) -> Error {
    let message = format!("no skill {} is installed", shorten(name));
    Error::new(ErrorKind::NotFound, message, hint).about(name)
}
