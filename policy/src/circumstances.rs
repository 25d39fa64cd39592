//! How an action came to be asked, beside who asks and where its data came from: by which way in, by which agents, and for how much.
//!
//! pawd knows all of it by itself and keeps it with the action, so that a rule is told the same whenever the action is judged.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::words::Name;

/// The longest name of somebody on a channel, in bytes.
pub const MAX_PEER: usize = 128;

/// How an action came to be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Circumstances {
    /// The way in.
    #[serde(skip_serializing_if = "Via::is_terminal")]
    pub via: Via,
    /// The agents that asked the one that acts, the one that a person asked first; none where that is the one that acts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub through: Vec<Name>,
    /// Of a tool that a model calls: whether everything that says where to, to whom or about what stands in what the person asked for
    /// ([`crate::named()`], rule R5).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub named: bool,
    /// Of a chat: whether anybody beyond this host may answer it. Of a switch: whether who answers then is beyond this host.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub leaves_host: bool,
    /// Of a chat: what its question costs at the dearest of those who may answer, in millionths of a US dollar, as far as that is known
    /// before it is answered: its tokens are estimated, and those of the answer are not among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_micros: Option<u64>,
}

impl Circumstances {
    /// The way in and the agents that asked, in one line; empty where a person asked the agent itself, at a terminal.
    #[must_use]
    pub fn way(&self) -> String {
        let via = match &self.via {
            Via::Terminal => None,
            Via::Job(id) => Some(format!("job {id}")),
            Via::Channel(peer) => Some(format!("channel {peer}")),
            Via::Mcp => Some("MCP".to_owned()),
        };
        let asked = self.through.iter().rev().map(|it| format!("asked by {it}"));
        asked.chain(via).collect::<Vec<_>>().join(", ")
    }

    /// Of these, what also holds of something that follows from the action: the way in and the agents that asked.
    #[must_use]
    pub fn way_alone(&self) -> Self {
        Self {
            via: self.via.clone(),
            through: self.through.clone(),
            ..Self::default()
        }
    }

    /// Whether there is nothing to say: a person asked at a terminal, and it is no chat.
    #[must_use]
    pub fn are_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// The way by which a request came in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// The control socket.
    #[default]
    Terminal,
    /// A run of this job, which its owner planned.
    Job(String),
    /// A channel: somebody whom its bridge names, and whom nobody on this host vouches for.
    Channel(Identity),
    /// The Model Context Protocol: a program that somebody of this host started, with a model of its own that pawd knows nothing of.
    Mcp,
}

impl Via {
    /// The word that stands for this way on every wire.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Terminal => "terminal",
            Self::Job(_) => "job",
            Self::Channel(_) => "channel",
            Self::Mcp => "mcp",
        }
    }

    const fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal)
    }
}

/// Somebody on a channel, as its bridge names them: `CHANNEL:WHO`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity {
    channel: Name,
    peer: String,
}

/// Why a text names nobody on a channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names nobody on a channel: CHANNEL:WHO is expected, WHO of 1 to {MAX_PEER} bytes without control characters"
)]
pub struct BadIdentity(String);

impl Identity {
    /// Which channel.
    #[must_use]
    pub const fn channel(&self) -> &Name {
        &self.channel
    }
}

impl FromStr for Identity {
    type Err = BadIdentity;

    fn from_str(text: &str) -> Result<Self, BadIdentity> {
        let bad = || BadIdentity(text.chars().take(MAX_PEER).collect());
        let (channel, peer) = text.split_once(':').ok_or_else(bad)?;
        let channel = channel.parse().map_err(|_| bad())?;
        if !(1..=MAX_PEER).contains(&peer.len()) || peer.chars().any(char::is_control) {
            return Err(bad());
        }
        Ok(Self {
            channel,
            peer: peer.to_owned(),
        })
    }
}

impl TryFrom<String> for Identity {
    type Error = BadIdentity;

    fn try_from(text: String) -> Result<Self, BadIdentity> {
        text.parse()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.to_string()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.channel, self.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_on_a_channel_has_one_name() {
        let check = |text: &str, good: bool| {
            let read = text.parse::<Identity>();
            assert_eq!(read.is_ok(), good, "{text:?}");
            if let Ok(read) = read {
                assert_eq!(read.to_string(), text);
            }
        };
        check("telegram:4711", true);
        check("matrix:@bob:example.org", true);
        check("telegram", false);
        check("telegram:", false);
        check(":4711", false);
        check("Telegram:4711", false);
        check("telegram:a\nb", false);
        check(&format!("telegram:{}", "x".repeat(MAX_PEER)), true);
        check(&format!("telegram:{}", "x".repeat(MAX_PEER + 1)), false);
    }

    /// What is stored of an action from before this was kept, and of most others, says nothing of it.
    #[test]
    fn plain_circumstances_are_not_written() {
        let plain = Circumstances::default();
        assert_eq!(serde_json::to_string(&plain).unwrap(), "{}");
        let some = Circumstances {
            via: Via::Channel("telegram:4711".parse().unwrap()),
            through: vec!["clerk".parse().unwrap()],
            named: true,
            leaves_host: true,
            cost_micros: Some(7),
        };
        let text = serde_json::to_string(&some).unwrap();
        assert_eq!(serde_json::from_str::<Circumstances>(&text).unwrap(), some);
    }
}
