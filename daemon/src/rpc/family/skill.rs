//! `skill.*`
//!
//! A bundle comes as pieces of plain files; what is in it is read here, where there is no right to anything. What needs a person's
//! yes is not here: it is an action of kind `skill_change`.

use std::sync::Arc;

use base64::Engine as _;
use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
    types::ErrorObjectOwned,
};
use paw_api::{
    Error, ErrorKind,
    agent::{Skill, SkillRpcServer, Tool},
    audit::Event,
    image::Upload,
    skill::{BundlePiece, SkillChecked, SkillStaged, SkillStoreRpcServer},
};
use paw_policy::Name;

use super::{Family, agent::unknown, fail};
use crate::{
    agent::skill::disable,
    rpc::caller,
    sandbox::{self, Provenance},
    skills::{
        Drift, Installed, NotTaken, Piece, Shown, SkillError, difference,
        incoming::{MAX_PIECE, MAX_PIECES},
        rights,
    },
};

#[async_trait]
impl SkillRpcServer for Family {
    async fn list(&self, _: &Extensions) -> RpcResult<Vec<Skill>> {
        let mut all: Vec<Skill> = self
            .installed
            .list()
            .into_iter()
            .map(|(name, shown)| installed(&name, &shown))
            .collect();
        let shipped = self.skills.iter();
        all.extend(
            shipped
                .filter(|skill| skill.origin == Provenance::Shipped)
                .map(|skill| shown(&skill)),
        );
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    async fn show(&self, extensions: &Extensions, name: String) -> RpcResult<Skill> {
        let all = SkillRpcServer::list(self, extensions).await?;
        let found = all.into_iter().find(|skill| skill.name == name);
        found.ok_or_else(|| unknown("skill", &name))
    }
}

#[async_trait]
impl SkillStoreRpcServer for Family {
    async fn send(
        &self,
        extensions: &Extensions,
        files: Vec<BundlePiece>,
        upload: Option<String>,
    ) -> RpcResult<Upload> {
        let caller = caller(extensions).map_err(fail)?;
        let pieces = pieces(files).map_err(fail)?;
        let family = self.clone();
        let take = move || family.incoming.take(caller.uid, upload, &pieces, fresh);
        let (upload, bytes) = blocking(take)
            .await?
            .map_err(|error| fail(not_taken(&error)))?;
        Ok(Upload { upload, bytes })
    }

    async fn stage(&self, extensions: &Extensions, upload: String) -> RpcResult<SkillStaged> {
        let caller = caller(extensions).map_err(fail)?;
        let sent = self
            .incoming
            .finish(caller.uid, &upload)
            .map_err(|error| fail(not_taken(&error)))?;
        let store = Arc::clone(&self.installed);
        let staged = blocking(move || store.stage(&sent))
            .await?
            .map_err(|error| fail(refused(&error)))?;
        let current = self.installed.get(&staged.name);
        let old = current.as_ref().and_then(|shown| shown.skill.as_deref());
        Ok(SkillStaged {
            name: staged.name.to_string(),
            version: staged.version.clone(),
            description: staged.description.clone(),
            digest: staged.digest,
            replaces: current.as_ref().map(|shown| shown.pin.digest),
            rights: rights(&staged),
            difference: difference(old, Some(&staged)),
        })
    }

    async fn verify(
        &self,
        extensions: &Extensions,
        name: Option<String>,
    ) -> RpcResult<Vec<SkillChecked>> {
        let caller = caller(extensions).map_err(fail)?;
        let all = self.installed.list();
        let wanted: Vec<Name> = match &name {
            None => all.into_keys().collect(),
            Some(name) => vec![named(&self.installed, name)?],
        };
        let mut checked = Vec::new();
        for name in wanted {
            let (store, of) = (Arc::clone(&self.installed), name.clone());
            let verified = blocking(move || store.verify(&of)).await?;
            let Some(known) = self.installed.get(&name) else {
                continue;
            };
            if let Err(error) = &verified {
                let drift = Drift {
                    skill: name.clone(),
                    digest: known.pin.digest,
                    why: paw_log::Chain(error).to_string(),
                };
                disable(&self.installed, &self.audit, drift, Some(&caller)).await;
            }
            let now = self.installed.get(&name).unwrap_or(known);
            checked.push(SkillChecked {
                name: name.to_string(),
                ok: verified.is_ok(),
                enabled: now.pin.enabled,
                why: match verified {
                    Ok(()) => now.pin.why,
                    Err(error) => Some(paw_log::Chain(&error).to_string()),
                },
            });
        }
        Ok(checked)
    }

    async fn disable(&self, extensions: &Extensions, name: String) -> RpcResult<Skill> {
        let caller = caller(extensions).map_err(fail)?;
        let name = named(&self.installed, &name)?;
        let detail = [
            ("change", "disable".to_owned()),
            ("skill", name.to_string()),
        ];
        self.record(Event::SkillChanged, &caller, &detail)
            .await
            .map_err(fail)?;
        let (store, of) = (Arc::clone(&self.installed), name.clone());
        let done = blocking(move || store.disable(&of, None, "an administrator switched it off"));
        done.await?.map_err(|error| fail(refused(&error)))?;
        let now = self.installed.get(&name);
        now.map(|shown| installed(&name, &shown))
            .ok_or_else(|| unknown("skill", name.as_str()))
    }
}

/// An installed skill, by its name as text.
fn named(store: &Installed, name: &str) -> RpcResult<Name> {
    let parsed: Option<Name> = name.parse().ok();
    parsed
        .filter(|name| store.get(name).is_some())
        .ok_or_else(|| {
            let message = format!("no skill {} is installed", crate::records::shorten(name));
            let hint =
                "see `pawctl skill list`; what came with the package is changed by the package";
            fail(Error::new(ErrorKind::NotFound, message, hint).about(name))
        })
}

fn pieces(files: Vec<BundlePiece>) -> Result<Vec<Piece>, Error> {
    let too_much = || {
        Error::new(
            ErrorKind::Invalid,
            "the pieces are not base64, or too many, or too long",
            "send at most 256 pieces and 128 KiB at a time",
        )
    };
    if files.len() > MAX_PIECES {
        return Err(too_much());
    }
    let mut room = MAX_PIECE;
    let mut pieces = Vec::with_capacity(files.len());
    for file in files {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(&file.data)
            .map_err(|_| too_much())?;
        room = room.checked_sub(bytes.len()).ok_or_else(too_much)?;
        pieces.push(Piece {
            path: file.path,
            executable: file.executable,
            offset: file.offset,
            bytes,
        });
    }
    Ok(pieces)
}

/// An id that nobody can guess.
fn fresh() -> std::io::Result<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(std::io::Error::other)?;
    Ok(format!("{:016x}", u64::from_le_bytes(random)))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ErrorObjectOwned> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        fail(Error::new(
            ErrorKind::Internal,
            error.to_string(),
            "report it",
        ))
    })
}

fn not_taken(error: &NotTaken) -> Error {
    let kind = match error {
        NotTaken::Full => ErrorKind::Busy,
        NotTaken::Unknown => ErrorKind::NotFound,
        NotTaken::Busy => ErrorKind::Conflict,
        NotTaken::Path(_) | NotTaken::TooLarge(_) | NotTaken::Order(_) => ErrorKind::Invalid,
        NotTaken::Write(_) => ErrorKind::Failed,
    };
    Error::new(kind, paw_log::Chain(error).to_string(), error.remedy())
}

fn refused(error: &SkillError) -> Error {
    let kind = match error {
        SkillError::Manifest(_) => ErrorKind::Invalid,
        SkillError::Pins(_) | SkillError::Files { .. } | SkillError::Touched { .. } => {
            ErrorKind::Failed
        }
        SkillError::NotStaged(_) | SkillError::Unknown(_) => ErrorKind::NotFound,
        SkillError::Ships(_) | SkillError::Changed(_) => ErrorKind::Conflict,
        SkillError::Full => ErrorKind::Busy,
    };
    Error::new(kind, paw_log::Chain(error).to_string(), error.remedy())
}

fn shown(skill: &sandbox::Skill) -> Skill {
    Skill {
        name: skill.name.to_string(),
        version: skill.version.clone(),
        description: skill.description.clone(),
        digest: skill.digest,
        origin: match skill.origin {
            Provenance::Shipped => "shipped",
            Provenance::Installed => "installed",
        }
        .to_owned(),
        enabled: true,
        why: None,
        announced: skill.announced,
        mounts: skill.mounts.iter().map(|it| it.told()).collect(),
        secrets: skill.secrets.iter().cloned().collect(),
        instructions: skill.instructions.clone(),
        tools: skill
            .tools
            .iter()
            .map(|(name, tool)| Tool {
                name: name.clone(),
                class: tool.class,
                description: tool.description.clone(),
                input_schema: tool.input.clone(),
            })
            .collect(),
    }
}

fn installed(name: &Name, known: &Shown) -> Skill {
    let pin = &known.pin;
    let Some(skill) = &known.skill else {
        return Skill {
            name: name.to_string(),
            version: pin.version.clone(),
            description: String::new(),
            digest: pin.digest,
            origin: "installed".to_owned(),
            enabled: pin.enabled,
            why: pin.why.clone(),
            announced: pin.announced,
            mounts: Vec::new(),
            secrets: Vec::new(),
            instructions: None,
            tools: Vec::new(),
        };
    };
    Skill {
        enabled: pin.enabled,
        why: pin.why.clone(),
        ..shown(skill)
    }
}
