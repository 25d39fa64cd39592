//! The way in of a chat.

use std::sync::Arc;

use paw_api::{Error, ErrorKind};
use paw_policy::{ChatArguments, Circumstances, Name, Operation};
use paw_store::Caller;
use uuid::Uuid;

use super::{
    Asked, Intake, MAX_TEXT, Typed,
    arguments::ChatAsked,
    cost,
    targets::{Named, Names, Stays},
    unreadable,
};
use crate::{
    agent::chat,
    config::{AgentSettings, Config},
    gateway::route::Needs,
    providers::Providers,
};

/// Turns of a session that are looked through for words of a local provider.
const LOOKED_THROUGH: usize = 1_000;

impl Intake {
    /// A chat: who may answer it, in which conversation, and what it costs. What was said here stays, and nobody is asked who may not be sent
    /// what it holds.
    ///
    /// # Errors
    /// As [`Intake::judge`].
    pub(super) fn chat(
        &self,
        config: &Config,
        (agent, settings): (&Name, &AgentSettings),
        asked: Asked,
        caller: &Caller,
    ) -> Result<Typed, Error> {
        let ChatAsked {
            text,
            provider,
            model,
            route,
            schema,
            images,
        } = ChatAsked::read(asked.arguments)?;
        if text.trim().is_empty() || text.len() > MAX_TEXT {
            let message = format!(
                "a chat of {} bytes; 1 to {MAX_TEXT} are taken, and not only blanks",
                text.len()
            );
            return Err(Error::new(
                ErrorKind::Invalid,
                message,
                "say something shorter, or something at all",
            ));
        }
        let providers = Arc::clone(&self.providers.borrow());
        let names = Names {
            provider,
            model,
            route,
        };
        let named = Named::find(config, &providers, (agent, settings), names)?;
        let place = self.place(agent, asked.session.as_deref(), &text, caller)?;
        let leaves_host = named.leaves_host(&providers);
        let held_here = leaves_host
            && !settings.may_leave_host
            && place.opens.is_none()
            && self.spoke_locally(&providers, place.id)?;
        let rules = Arc::clone(&self.rules.borrow());
        let request = if named.asks_for_needs() || rules.mention("cost") {
            let said = chat::said(&text, &images);
            let offer = chat::offer(&self.skills, settings, schema.as_ref());
            let request = chat::request(&self.storage, place.id, settings, offer, said);
            Some(request.map_err(|error| unreadable(&error))?)
        } else {
            None
        };
        let needs = request.as_ref().filter(|_| named.asks_for_needs());
        let needs = needs.map(Needs::of);
        let stays = Stays {
            local_only: asked.local_only,
            held_here,
            labels: &place.taint.clone().with(&asked.knows),
        };
        let known = (config, &*providers);
        let plan = ChatArguments {
            schema,
            images,
            ..named.plan(known, place.id, text, stays, needs)?
        };
        let circumstances = Circumstances {
            leaves_host: cost::leaves_host(&providers, &plan),
            cost_micros: cost::of(known, &plan, request.as_ref()),
            ..Circumstances::default()
        };
        Ok(Typed {
            operation: Operation::Chat(plan),
            place: Some(place),
            circumstances,
        })
    }

    /// Whether anything in a session was said by a provider on this host.
    fn spoke_locally(&self, providers: &Providers, session: Uuid) -> Result<bool, Error> {
        let turns = self
            .storage
            .read()
            .turns(session, 0, LOOKED_THROUGH)
            .map_err(|error| unreadable(&error))?;
        let beyond = turns.len() == LOOKED_THROUGH;
        // What was not looked through may have been said here.
        Ok(beyond || turns.iter().any(|turn| providers.said_here(turn)))
    }
}
