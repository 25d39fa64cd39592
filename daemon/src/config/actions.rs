//! Bounds of actions: how many at once, of which kind, for how long.

use std::time::Duration;

use paw_policy::Kind;
use serde::{Serialize, Serializer};

use super::{
    ActionBounds,
    fault::Faults,
    layers::{Layers, bounded},
    value::duration,
};

/// Actions that are done at once, if nothing is said.
const CONCURRENCY: u32 = 64;

/// Of those, how many need a sandbox at most, if nothing is said: each takes memory of the host.
const TOOL_CALLS: u32 = 16;

/// How many changes of what is configured there may be, however few actions: models that are fetched take long, and keep nobody from another.
const CHANGES: u32 = 4;

/// The most that can be done at once.
const MOST: u32 = 1_024;

/// The kinds that stand in line for a place; of others there is none to be had.
const KINDS: [Kind; 7] = [
    Kind::Chat,
    Kind::ToolCall,
    Kind::ModelSwitch,
    Kind::ConfigChange,
    Kind::FileOperation,
    Kind::ApiCall,
    Kind::SkillChange,
];

/// How many actions of each kind are done at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtOnce([u32; Kind::ALL.len()]);

impl AtOnce {
    /// Of this kind.
    #[must_use]
    pub const fn of(&self, kind: Kind) -> u32 {
        self.0[kind as usize]
    }

    /// With so many places in all: neither kind takes every place there is, so that none waits for the other.
    fn usual(concurrency: u32) -> Self {
        let most = concurrency.saturating_mul(3).div_ceil(4);
        Self(Kind::ALL.map(|kind| match kind {
            Kind::Chat => most,
            Kind::ToolCall => most.min(TOOL_CALLS),
            Kind::ConfigChange => concurrency.max(CHANGES),
            Kind::ModelSwitch
            | Kind::FileOperation
            | Kind::ApiCall
            | Kind::SecretUse
            | Kind::SkillChange => concurrency,
        }))
    }
}

impl Serialize for AtOnce {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(KINDS.map(|kind| (kind.as_str(), self.of(kind))))
    }
}

fn at_once(layers: &Layers, concurrency: u32, faults: &mut Faults) -> AtOnce {
    let mut all = AtOnce::usual(concurrency);
    for (source, file) in &layers.0 {
        let said = file.actions.iter().flat_map(|actions| &actions.at_once);
        for (key, value) in said {
            let kind = KINDS
                .into_iter()
                .find(|kind| kind.as_str() == key.get_ref());
            match kind {
                Some(kind) => {
                    all.0[kind as usize] = bounded(source, value, &(1..=MOST), faults);
                }
                None => {
                    let words = KINDS.map(Kind::as_str).join(", ");
                    let message = format!("{:?} is no kind of action that is done", key.get_ref());
                    faults.at(source, key.span(), message, format!("use one of {words}"));
                }
            }
        }
    }
    all
}

pub(super) fn actions(layers: &Layers, faults: &mut Faults) -> ActionBounds {
    let seconds = Duration::from_secs;
    let concurrency = layers.number(
        |f| f.actions.as_ref()?.concurrency.as_ref(),
        CONCURRENCY,
        1..=MOST,
        faults,
    );
    ActionBounds {
        concurrency,
        at_once: at_once(layers, concurrency, faults),
        background: layers.number(
            |f| f.actions.as_ref()?.background.as_ref(),
            75,
            1..=100,
            faults,
        ),
        queue: layers.number(
            |f| f.actions.as_ref()?.queue.as_ref(),
            1_024,
            1..=100_000,
            faults,
        ),
        approvals: layers.number(
            |f| f.actions.as_ref()?.approvals.as_ref(),
            1_000,
            1..=100_000,
            faults,
        ),
        approval_expiry: layers.text(
            |f| f.actions.as_ref()?.approval_expiry.as_ref(),
            seconds(24 * 3600),
            duration,
            faults,
        ),
        chat_timeout: layers.text(
            |f| f.actions.as_ref()?.chat_timeout.as_ref(),
            seconds(600),
            duration,
            faults,
        ),
        tool_timeout: layers.text(
            |f| f.actions.as_ref()?.tool_timeout.as_ref(),
            seconds(60),
            duration,
            faults,
        ),
        keep: layers.number(
            |f| f.actions.as_ref()?.keep.as_ref(),
            100_000,
            100..=10_000_000,
            faults,
        ),
        drain: layers.text(
            |f| f.actions.as_ref()?.drain.as_ref(),
            seconds(20),
            duration,
            faults,
        ),
    }
}

#[cfg(test)]
mod tests {
    use paw_policy::Kind;

    use crate::config::{Config, Faults, check::check, source::Source};

    fn read(text: &str) -> Result<Config, Faults> {
        let source = Source {
            name: "pawd.toml".into(),
            text: text.into(),
        };
        check(vec![source], None)
    }

    /// Chats and tool calls at once.
    fn at_once(text: &str) -> (u32, u32) {
        let actions = read(text).unwrap().actions;
        (
            actions.at_once.of(Kind::Chat),
            actions.at_once.of(Kind::ToolCall),
        )
    }

    #[test]
    fn neither_kind_has_every_place_unless_it_is_said() {
        assert_eq!(at_once(""), (48, 16));
        assert_eq!(at_once("[actions]\nconcurrency = 8\n"), (6, 6));
        assert_eq!(at_once("[actions]\nconcurrency = 1\n"), (1, 1));
        let said = "[actions]\nconcurrency = 8\n[actions.at_once]\ntool_call = 8\n";
        assert_eq!(at_once(said), (6, 8));
    }

    #[test]
    fn changes_have_places_beside_models_that_are_fetched_however_few_actions_there_are() {
        let of = |text| read(text).unwrap().actions.at_once.of(Kind::ConfigChange);
        assert_eq!(of(""), 64);
        assert_eq!(of("[actions]\nconcurrency = 1\n"), 4);
        assert_eq!(of("[actions.at_once]\nconfig_change = 1\n"), 1);
    }

    #[test]
    fn what_cannot_be_meant_is_a_fault_with_its_remedy() {
        for (text, word) in [
            ("[actions]\nconcurrency = 0\n", "use 1 to 1024"),
            ("[actions]\nbackground = 0\n", "use 1 to 100"),
            ("[actions]\nbackground = 101\n", "use 1 to 100"),
            ("[actions.at_once]\nchat = 0\n", "use 1 to 1024"),
            ("[actions.at_once]\nchat = 1025\n", "use 1 to 1024"),
            ("[actions.at_once]\nplanet = 1\n", "chat, tool_call"),
            ("[actions.at_once]\nsecret_use = 1\n", "chat, tool_call"),
            ("[actions.at_once]\nchat = \"many\"\n", "u32"),
        ] {
            let faults = read(text).unwrap_err().to_string();
            assert!(faults.contains(word), "{text}: {faults}");
        }
    }
}
