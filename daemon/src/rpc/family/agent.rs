//! `agent.*` and `session.*`

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    action::Page,
    agent::{Agent, AgentRpcServer, AgentSpec, Session, SessionRpcServer, Transcript},
    audit::{Entry, Event},
};
use paw_policy::{ConfigChange, Name, Role};
use paw_store::Batch;
use serde_json::Map;

use super::{Family, LISTED, change::said, fail};
use crate::{
    config::{AgentSettings, Config},
    intake::unreadable,
    quota::scope,
    records,
    rpc::caller,
};

/// Turns of one answer.
const TURNS: usize = 1_000;

#[async_trait]
impl AgentRpcServer for Family {
    async fn list(&self, _: &Extensions) -> RpcResult<Vec<Agent>> {
        let config = self.config.borrow();
        Ok(config
            .agents
            .iter()
            .map(|(name, settings)| shown(&config, name, settings))
            .collect())
    }

    async fn show(&self, _: &Extensions, name: String) -> RpcResult<Agent> {
        let config = self.config.borrow();
        let found = config
            .agents
            .iter()
            .find(|(known, _)| known.as_str() == name);
        found
            .map(|(name, settings)| shown(&config, name, settings))
            .ok_or_else(|| unknown("agent", &name))
    }

    async fn create(
        &self,
        extensions: &Extensions,
        name: String,
        spec: AgentSpec,
    ) -> RpcResult<Agent> {
        let said = said(&spec).map_err(fail)?;
        self.configure(extensions, ConfigChange::AgentCreate, &name, said)
            .await?;
        AgentRpcServer::show(self, extensions, name).await
    }

    async fn edit(
        &self,
        extensions: &Extensions,
        name: String,
        spec: AgentSpec,
    ) -> RpcResult<Agent> {
        let said = said(&spec).map_err(fail)?;
        self.configure(extensions, ConfigChange::AgentEdit, &name, said)
            .await?;
        AgentRpcServer::show(self, extensions, name).await
    }

    async fn remove(&self, extensions: &Extensions, name: String) -> RpcResult<Agent> {
        let was = AgentRpcServer::show(self, extensions, name.clone()).await?;
        self.configure(extensions, ConfigChange::AgentRemove, &name, Map::default())
            .await?;
        Ok(was)
    }
}

#[async_trait]
impl SessionRpcServer for Family {
    async fn list(
        &self,
        extensions: &Extensions,
        limit: Option<u32>,
        before: Option<String>,
        all: Option<bool>,
    ) -> RpcResult<Page<Session>> {
        let caller = caller(extensions).map_err(fail)?;
        let owner = (caller.role != Role::Admin).then_some(caller.uid);
        let page = super::page(limit.unwrap_or(50), before.as_deref()).map_err(fail)?;
        let listed = self
            .storage
            .read()
            .sessions((owner, all.unwrap_or(false)), &page)
            .map_err(|error| fail(unreadable(&error)))?;
        let items = listed.records.into_iter().map(records::session).collect();
        Ok(Page {
            items,
            next: listed.next.map(|id| id.to_string()),
        })
    }

    async fn show(
        &self,
        extensions: &Extensions,
        id: String,
        from: Option<u64>,
    ) -> RpcResult<Transcript> {
        let caller = caller(extensions).map_err(fail)?;
        let session = self.intake.session(&id, &caller).map_err(fail)?;
        let from = from.unwrap_or(0);
        let turns = self
            .storage
            .read()
            .turns(session.id, from, TURNS)
            .map_err(|error| fail(unreadable(&error)))?;
        // As many as an answer holds, and the first whatever its length: so who goes on from `next` comes to the end.
        let (mut room, mut shown) = (LISTED, Vec::new());
        for turn in turns.into_iter().map(records::turn) {
            let length = serde_json::to_vec(&turn).map_or(LISTED, |text| text.len());
            match room.checked_sub(length) {
                Some(left) => room = left,
                None if shown.is_empty() => room = 0,
                None => break,
            }
            shown.push(turn);
        }
        let end = from + shown.len() as u64;
        let next = (end < session.turns).then_some(end);
        let summary = self.storage.read().summary(session.id);
        let summary = summary.map_err(|error| fail(unreadable(&error)))?;
        Ok(Transcript {
            session: records::session(session),
            summary: summary.map(records::summary_of),
            turns: shown,
            next,
        })
    }

    async fn delete(&self, extensions: &Extensions, id: String) -> RpcResult<bool> {
        let caller = caller(extensions).map_err(fail)?;
        let session = self.intake.session(&id, &caller).map_err(fail)?;
        let begun = self.storage.read().begun_by(session.id);
        let begun = begun.map_err(|error| fail(unreadable(&error)))?;
        let mut entry = Entry::new(Event::SessionDeleted);
        entry.actor = Some(records::actor(&caller));
        entry
            .detail
            .insert("session".into(), session.id.to_string());
        records::with_those(&mut entry, &begun);
        let recorded = self.audit.durable(entry).await;
        recorded.map_err(|error| {
            fail(Error::new(
                ErrorKind::Unavailable,
                error.to_string(),
                error.remedy(),
            ))
        })?;
        let mut batch = Batch::new();
        let all = [session.id].into_iter().chain(begun);
        batch
            .delete_session(session.id)
            .and_then(|batch| {
                all.map(|id| scope::of_session(&id.to_string()))
                    .try_fold(batch, |batch, part| batch.forget_part(&part))
            })
            .map_err(|error| fail(unreadable(&error)))?;
        self.storage
            .commit_for_caller(batch)
            .await
            .map_err(|error| fail(unreadable(&error)))?;
        Ok(true)
    }
}

fn shown(config: &Config, name: &Name, settings: &AgentSettings) -> Agent {
    let provider = settings.provider.as_ref();
    let model = settings
        .model
        .clone()
        .or_else(|| Some(config.providers.get(provider?)?.model.clone()));
    Agent {
        name: name.to_string(),
        instructions: settings.instructions.clone(),
        provider: provider.map(ToString::to_string).unwrap_or_default(),
        model: model.unwrap_or_default(),
        route: settings.route.as_ref().map(ToString::to_string),
        switched: settings.switched,
        skills: settings.skills.iter().map(ToString::to_string).collect(),
        agents: settings
            .agents
            .iter()
            .map(|it| it.name.to_string())
            .collect(),
        max_turns: settings.max_turns,
        net: settings.net.iter().map(ToString::to_string).collect(),
        isolation_floor: settings.isolation_floor.to_string(),
        workspace: settings.workspace.as_str().to_owned(),
        max_tokens: settings.max_tokens,
        // As it was written: 0.7 is no 0.699999988.
        temperature: settings
            .temperature
            .and_then(|value| value.to_string().parse().ok()),
        may_leave_host: settings.may_leave_host,
        file: settings.file.clone(),
        registered: settings.registered,
        lacks: config
            .strays
            .iter()
            .filter(|stray| stray.agent == *name)
            .map(|stray| stray.message.clone())
            .collect(),
    }
}

pub(super) fn unknown(what: &str, name: &str) -> jsonrpsee::types::ErrorObjectOwned {
    let message = format!("there is no {what} {}", records::shorten(name));
    fail(
        Error::new(
            ErrorKind::NotFound,
            message,
            format!("see `pawctl {what} list`"),
        )
        .about(name),
    )
}
