//! What the index entries of a stored action are made of, read without the rest of it.

use std::borrow::Cow;

use paw_policy::State;
use serde::Deserialize;
use uuid::Uuid;

/// What an action's index entries are made of.
#[derive(Deserialize)]
pub(crate) struct Placed<'a> {
    /// Where it stands.
    pub(crate) state: State,
    #[serde(borrow)]
    plan: PlacedPlan<'a>,
}

#[derive(Deserialize)]
struct PlacedPlan<'a> {
    #[serde(borrow)]
    session: Option<Cow<'a, str>>,
}

impl Placed<'_> {
    /// In which session it is, if in one.
    pub(crate) fn session(&self) -> Option<u128> {
        let text = self.plan.session.as_deref()?;
        text.parse::<Uuid>().ok().map(|id| id.as_u128())
    }
}
