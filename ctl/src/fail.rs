//! What can go wrong, said in three lines (what failed, why, what to do), and the exit code that follows.

use std::{io, path::PathBuf, time::Duration};

use jsonrpsee::core::client::Error as ClientError;
use paw_api::{ErrorData, ErrorKind};
use paw_policy::State;

/// Exit codes of the contract. A command in a sandbox gives its own.
pub(crate) mod exit {
    /// Done.
    pub(crate) const DONE: u8 = 0;
    /// The operation failed.
    pub(crate) const FAILED: u8 = 1;
    /// The command line or its arguments cannot be meant.
    pub(crate) const USAGE: u8 = 2;
    /// pawd is not reachable.
    pub(crate) const UNREACHABLE: u8 = 3;
    /// Policy, role or a person says no.
    pub(crate) const DENIED: u8 = 4;
    /// A person has to answer first; only with `--no-wait`.
    pub(crate) const WAITING: u8 = 5;
    /// No such thing.
    pub(crate) const NOT_FOUND: u8 = 6;
    /// The deadline passed.
    pub(crate) const DEADLINE: u8 = 124;
    /// The sandbox could not be made.
    pub(crate) const NO_SANDBOX: u8 = 125;
    /// Ended by Ctrl-C, as shells report it.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Why a command did not do what it was asked for. `doing` is what failed, as a verb phrase.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nobody answers at the socket.
    #[error("reach pawd at {}", socket.display())]
    Unreachable { socket: PathBuf, source: io::Error },
    /// pawd answered with an error.
    #[error("{doing}")]
    Refused {
        doing: String,
        code: i32,
        message: String,
        data: Option<ErrorData>,
    },
    /// The connection ended before the answer came.
    #[error("{doing}")]
    Lost { doing: String, why: String },
    /// A stream ended without its last item.
    #[error("{doing}: stream cut")]
    Cut {
        doing: String,
        why: String,
        remedy: String,
    },
    /// The answer is not what this pawctl understands.
    #[error("{doing}")]
    Unreadable {
        doing: String,
        source: serde_json::Error,
    },
    /// `--timeout` passed.
    #[error("{doing}")]
    Deadline {
        doing: String,
        limit: Duration,
        remedy: String,
    },
    /// The action became final without being completed.
    #[error("action {id} is {state}")]
    Ended {
        id: String,
        state: State,
        why: String,
        remedy: String,
    },
    /// The arguments are understood and cannot be meant.
    #[error("{doing}")]
    Usage {
        doing: String,
        why: String,
        remedy: String,
    },
    /// No such thing.
    #[error("{doing}")]
    NotFound {
        doing: String,
        why: String,
        remedy: String,
    },
    /// The sandbox could not be made, or its end is not known.
    #[error("run the command in a sandbox")]
    NoSandbox { why: String, data: ErrorData },
    /// Something on this side failed.
    #[error("{doing}")]
    Local {
        doing: String,
        why: String,
        remedy: String,
    },
    /// The reader of our output is gone.
    #[error("write the output")]
    PipeClosed,
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted { why: String },
}

impl Failure {
    /// What an error of the client library means while `doing`.
    pub(crate) fn of_client(doing: &str, error: ClientError) -> Self {
        let doing = doing.to_owned();
        match error {
            ClientError::Call(error) => Self::Refused {
                doing,
                code: error.code(),
                message: error.message().to_owned(),
                data: error
                    .data()
                    .and_then(|data| serde_json::from_str(data.get()).ok()),
            },
            ClientError::ParseError(source) => Self::Unreadable { doing, source },
            other => Self::Lost {
                doing,
                why: causes(&other),
            },
        }
    }

    /// A failure of a file or stream on this side.
    pub(crate) fn io(doing: impl Into<String>, source: &io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            return Self::PipeClosed;
        }
        let remedy = match source.kind() {
            io::ErrorKind::NotFound => "check the path",
            io::ErrorKind::PermissionDenied => "run it as a user who may, or choose another path",
            io::ErrorKind::StorageFull => "free some space",
            io::ErrorKind::AlreadyExists => "choose another path: nothing is overwritten",
            _ => "try again; if it stays, look at the journal: journalctl -k",
        };
        Self::Local {
            doing: doing.into(),
            why: source.to_string(),
            remedy: remedy.to_owned(),
        }
    }

    /// The exit code of the contract.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => exit::UNREACHABLE,
            Self::Refused { code, data, .. } => match data {
                Some(data) => data.kind.exit_code(),
                None => exit_of_code(*code),
            },
            Self::Lost { .. } => exit::UNREACHABLE,
            Self::Cut { .. } | Self::Unreadable { .. } | Self::Local { .. } => exit::FAILED,
            Self::Deadline { .. } => exit::DEADLINE,
            Self::Ended { state, .. } => exit_of_state(*state),
            Self::Usage { .. } => exit::USAGE,
            Self::NotFound { .. } => exit::NOT_FOUND,
            Self::NoSandbox { data, .. } => match data.kind {
                ErrorKind::Denied => exit::DENIED,
                ErrorKind::TimedOut
                | ErrorKind::NotFound
                | ErrorKind::Invalid
                | ErrorKind::Conflict
                | ErrorKind::Busy
                | ErrorKind::Unavailable
                | ErrorKind::Failed
                | ErrorKind::Internal
                | ErrorKind::Cut => exit::NO_SANDBOX,
            },
            Self::PipeClosed => exit::DONE,
            Self::Interrupted { .. } => exit::INTERRUPTED,
        }
    }

    /// What failed, why, and what to do; not yet stripped of control characters.
    pub(crate) fn lines(&self) -> [String; 3] {
        let what = self.to_string();
        let (why, remedy) = match self {
            Self::Unreachable { source, .. } => (source.to_string(), reach(source).to_owned()),
            Self::Refused {
                code,
                message,
                data,
                ..
            } => (message.clone(), refused(*code, data.as_ref())),
            Self::Lost { why, .. } => (
                why.clone(),
                "see whether pawd still runs: pawctl status, journalctl -u pawd -n 50".to_owned(),
            ),
            Self::Unreadable { source, .. } => (
                format!("the answer is not understood: {source}"),
                "pawctl and pawd are of different versions: install the same one, or use -o json"
                    .to_owned(),
            ),
            Self::Deadline { limit, remedy, .. } => (
                format!("not done within {}", Seconds(*limit)),
                remedy.clone(),
            ),
            Self::NoSandbox { why, data } => (why.clone(), refused(data.kind.code(), Some(data))),
            Self::Cut { why, remedy, .. }
            | Self::Ended { why, remedy, .. }
            | Self::Usage { why, remedy, .. }
            | Self::NotFound { why, remedy, .. }
            | Self::Local { why, remedy, .. } => (why.clone(), remedy.clone()),
            Self::PipeClosed => ("the reader is gone".to_owned(), String::new()),
            Self::Interrupted { why } => (why.clone(), String::new()),
        };
        [what, why, remedy]
    }
}

/// A limit as people write it.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.subsec_millis() == 0 {
            write!(f, "{} s", self.0.as_secs())
        } else {
            write!(f, "{} ms", self.0.as_millis())
        }
    }
}

/// The exit code for an action that is final in this state.
pub(crate) const fn exit_of_state(state: State) -> u8 {
    match state {
        State::Completed => exit::DONE,
        State::Rejected => exit::DENIED,
        State::Expired | State::TimedOut => exit::DEADLINE,
        State::Failed | State::Cancelled => exit::FAILED,
        State::WaitingApproval => exit::WAITING,
        State::Queued | State::Approved | State::Executing => exit::DONE,
    }
}

/// The exit code for a JSON-RPC code that came without our data.
fn exit_of_code(code: i32) -> u8 {
    match ErrorKind::of_code(code) {
        Some(kind) => kind.exit_code(),
        None if code == -32602 => exit::USAGE,
        None => exit::FAILED,
    }
}

fn refused(code: i32, data: Option<&ErrorData>) -> String {
    let Some(data) = data else {
        return match code {
            -32601 => "pawd does not know this method: install the same version of pawd and pawctl"
                .to_owned(),
            -32602 => "see what the method takes: pawctl rpc rpc.discover".to_owned(),
            _ => "look at the journal: journalctl -u pawd -n 50".to_owned(),
        };
    };
    match data.retry_after_ms {
        Some(ms) => format!("{} (again in {} s)", data.hint, ms.div_ceil(1000)),
        None => data.hint.clone(),
    }
}

/// What to do when the socket cannot be reached.
fn reach(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "start it: systemctl start pawd; find out more: pawctl doctor",
        io::ErrorKind::PermissionDenied => {
            "join the groups (usermod -aG paw,paw-user NAME, then log in again), or use sudo"
        }
        io::ErrorKind::ConnectionRefused => {
            "the socket is there and nobody listens: systemctl restart pawd; pawctl doctor"
        }
        _ => "find out more: pawctl doctor",
    }
}

/// An error with all its causes, in one line, without saying anything twice.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: i32, kind: Option<ErrorKind>) -> Failure {
        let data = kind.map(|kind| ErrorData {
            kind,
            hint: "do this".into(),
            retry_after_ms: None,
            id: None,
        });
        Failure::Refused {
            doing: "try".into(),
            code,
            message: "because".into(),
            data,
        }
    }

    #[test]
    fn every_error_of_pawd_has_the_exit_code_of_the_contract() {
        let check = |code, kind, expected| {
            assert_eq!(refusal(code, kind).exit_code(), expected, "{code} {kind:?}")
        };
        check(-32001, Some(ErrorKind::Denied), 4);
        check(-32002, Some(ErrorKind::NotFound), 6);
        check(-32003, Some(ErrorKind::Invalid), 2);
        check(-32004, Some(ErrorKind::Conflict), 1);
        check(-32021, Some(ErrorKind::TimedOut), 124);
        check(-32001, None, 4);
        check(-32602, None, 2);
        check(-32601, None, 1);
        check(-32007, None, 1);
    }

    #[test]
    fn every_final_state_has_the_exit_code_of_the_contract() {
        let check = |state, expected| assert_eq!(exit_of_state(state), expected, "{state}");
        check(State::Completed, 0);
        check(State::Failed, 1);
        check(State::Cancelled, 1);
        check(State::Rejected, 4);
        check(State::WaitingApproval, 5);
        check(State::Expired, 124);
        check(State::TimedOut, 124);
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let data = ErrorData {
            kind: ErrorKind::Busy,
            hint: "wait".into(),
            retry_after_ms: Some(1500),
            id: None,
        };
        let failure = Failure::Refused {
            doing: "submit".into(),
            code: -32005,
            message: "the queue is full".into(),
            data: Some(data),
        };
        assert_eq!(
            failure.lines(),
            ["submit", "the queue is full", "wait (again in 2 s)"]
        );
    }

    #[test]
    fn a_socket_that_may_not_be_reached_names_the_group() {
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        let failure = Failure::Unreachable {
            socket: "/run/pawd/control.sock".into(),
            source,
        };
        assert!(failure.lines()[2].contains("paw-user"));
        assert_eq!(failure.exit_code(), 3);
    }
}
