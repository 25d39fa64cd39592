//! The arguments of each kind as a caller sends them: what can be read, and what is refused unread.

use paw_api::{Error, ErrorKind};
use paw_policy::{Digest, Kind, SkillChange};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{config::value::MAX_MODEL, pictures, records::shorten, schema};

/// Arguments of a chat.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChatAsked {
    pub(super) text: String,
    pub(super) provider: Option<String>,
    pub(super) model: Option<String>,
    pub(super) route: Option<String>,
    /// JSON schema of the answer.
    pub(super) schema: Option<Value>,
    /// Pictures, in base64.
    #[serde(default)]
    pub(super) images: Vec<String>,
}

/// Arguments of a call of a tool.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ToolAsked {
    pub(super) skill: String,
    pub(super) tool: String,
    #[serde(default)]
    pub(super) arguments: Map<String, Value>,
}

/// Arguments of a change of a skill.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SkillAsked {
    pub(super) change: SkillChange,
    pub(super) skill: String,
    /// What was sent; of an installation, and of nothing else.
    pub(super) digest: Option<Digest>,
}

impl ChatAsked {
    /// Reads them; a model has a name that can be shown, a schema is one, and pictures are some.
    pub(super) fn read(arguments: Map<String, Value>) -> Result<Self, Error> {
        let asked: Self = read(arguments)?;
        let shows =
            |name: &str| (1..=MAX_MODEL).contains(&name.len()) && !name.contains(char::is_control);
        if !asked.model.as_deref().is_none_or(shows) {
            return Err(Error::new(
                ErrorKind::Invalid,
                "that cannot be the name of a model",
                format!("use 1 to {MAX_MODEL} bytes without control characters"),
            ));
        }
        if let Some(Err(fault)) = asked.schema.as_ref().map(schema::check) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("the schema of the answer cannot be one: {fault}"),
                "give a JSON schema, such as {\"type\": \"object\", \"properties\": {…}}",
            ));
        }
        pictures::check(&asked.images).map_err(|fault| {
            let hint = "give small pictures, in base64 with its padding";
            Error::new(ErrorKind::Invalid, fault, hint)
        })?;
        Ok(asked)
    }
}

/// Reads arguments; a name that is not known is an error, so that nothing that was meant is left out.
pub(super) fn read<T: DeserializeOwned>(arguments: Map<String, Value>) -> Result<T, Error> {
    serde_json::from_value(Value::Object(arguments)).map_err(|error| {
        Error::new(
            ErrorKind::Denied,
            format!("unreadable arguments: {error}"),
            "see pawctl-action(1) for the arguments of each kind",
        )
    })
}

pub(super) fn unknown_kind(kind: &str) -> Error {
    let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    Error::new(
        ErrorKind::Denied,
        format!("there is no kind of action {:?}", shorten(kind)),
        format!("kinds are: {}", known.join(", ")),
    )
}

/// A kind that nobody submits: why, and what asks for it.
pub(super) fn not_submitted(kind: Kind) -> Error {
    let (why, hint) = match kind {
        Kind::ApiCall => (
            "only a sandbox that was refused a host asks for one, of the broker that refused it",
            "run the command or the tool; the question comes by itself",
        ),
        Kind::SecretUse => (
            "only a broker or a provider uses a secret, for a request that is under way, and each use is judged then",
            "see `pawctl secret list` for what may use which, and `pawctl secret log` for what did",
        ),
        Kind::Chat
        | Kind::ToolCall
        | Kind::ModelSwitch
        | Kind::ConfigChange
        | Kind::FileOperation
        | Kind::SkillChange => (
            "it is submitted otherwise",
            "see pawctl-action(1) for the arguments of each kind",
        ),
    };
    let message = format!("nobody submits an action of kind {kind}: {why}");
    Error::new(ErrorKind::Denied, message, hint)
}
