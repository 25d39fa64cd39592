//! Connections to the control socket. Results are kept as they came, so that `-o json` can print them unchanged.

mod stream;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jsonrpsee::{
    async_client::Client,
    core::{
        client::{ClientT as _, Error},
        traits::ToRpcParams,
    },
};
use paw_api::{client, methods};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, value::RawValue};
use tokio::time::Instant;

pub(crate) use self::stream::{Heard, Items, Request};
use crate::{cli::Global, fail::Failure};

/// How long an ordinary call may take when `--timeout` says nothing.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// The socket that these flags and this environment mean: `--socket`, `--root`, `PAWD_SOCKET`, the usual place.
pub(crate) fn socket_path(global: &Global) -> PathBuf {
    if let Some(path) = &global.socket {
        return path.clone();
    }
    if let Some(root) = &global.root {
        return root.join("run/control.sock");
    }
    match std::env::var_os("PAWD_SOCKET") {
        Some(path) if !path.is_empty() => path.into(),
        _ => "/run/pawd/control.sock".into(),
    }
}

/// Parameters by name; members that are `null` are left out.
pub(crate) struct Params(Option<Box<RawValue>>);

impl Params {
    /// No parameters.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// The members of an object.
    pub(crate) fn named(value: Value) -> Self {
        let Value::Object(members) = value else {
            return Self(None);
        };
        let said: Map<String, Value> = members
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect();
        if said.is_empty() {
            Self(None)
        } else {
            Self(serde_json::value::to_raw_value(&said).ok())
        }
    }

    /// Whatever somebody typed for `pawctl rpc`.
    pub(crate) const fn raw(value: Box<RawValue>) -> Self {
        Self(Some(value))
    }
}

impl ToRpcParams for Params {
    fn to_rpc_params(self) -> Result<Option<Box<RawValue>>, serde_json::Error> {
        Ok(self.0)
    }
}

/// A result as it came.
pub(crate) struct Answer {
    /// What was being done, for an error that is found later.
    doing: String,
    /// The result, unchanged.
    pub(crate) raw: Box<RawValue>,
}

impl Answer {
    /// The result in our words.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(self.raw.get()).map_err(|source| Failure::Unreadable {
            doing: self.doing.clone(),
            source,
        })
    }
}

/// A connection.
pub(crate) struct Connection {
    client: Client,
    socket: PathBuf,
    started: Instant,
    limit: Option<Duration>,
}

impl Connection {
    /// Connects to the socket that the flags mean. `--timeout` counts from here.
    pub(crate) async fn open(global: &Global) -> Result<Self, Failure> {
        Self::at(&socket_path(global), global.timeout).await
    }

    /// Connects to this socket.
    pub(crate) async fn at(socket: &Path, limit: Option<Duration>) -> Result<Self, Failure> {
        let started = Instant::now();
        let client = client::connect(socket)
            .await
            .map_err(|source| Failure::Unreachable {
                socket: socket.to_owned(),
                source,
            })?;
        Ok(Self {
            client,
            socket: socket.to_owned(),
            started,
            limit,
        })
    }

    /// Lets `--timeout` count from now again.
    pub(crate) fn restart_clock(&mut self) {
        self.started = Instant::now();
    }

    /// What is left of `--timeout`, in milliseconds; none if it was not given.
    pub(crate) fn remaining_ms(&self) -> Option<u64> {
        let left = self.limit?.saturating_sub(self.started.elapsed());
        Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    /// Calls a method that answers soon: within `--timeout`, or within 30 s.
    pub(crate) async fn call(
        &self,
        doing: &str,
        method: &str,
        params: Params,
    ) -> Result<Answer, Failure> {
        let deadline = self
            .limit
            .map_or_else(|| Instant::now() + CALL_LIMIT, |limit| self.started + limit);
        self.by(deadline, doing, method, params).await
    }

    /// Calls a method that takes as long as it takes: within `--timeout` if that was given.
    pub(crate) async fn call_patiently(
        &self,
        doing: &str,
        method: &str,
        params: Params,
    ) -> Result<Answer, Failure> {
        match self.limit {
            Some(limit) => self.by(self.started + limit, doing, method, params).await,
            None => self.request(doing, method, params).await,
        }
    }

    async fn by(
        &self,
        deadline: Instant,
        doing: &str,
        method: &str,
        params: Params,
    ) -> Result<Answer, Failure> {
        match tokio::time::timeout_at(deadline, self.request(doing, method, params)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.deadline(
                doing,
                "give it longer with --timeout, or see what pawd does: pawctl status",
            )),
        }
    }

    /// Asks, and asks once more on a new connection when the first one broke and the method changes nothing: a pawd that is
    /// just being restarted drops what it has not read, and its socket waits for the next one.
    async fn request(&self, doing: &str, method: &str, params: Params) -> Result<Answer, Failure> {
        let again = Params(params.0.clone());
        let mut outcome = self.client.request(method, params).await;
        if matches!(outcome, Err(Error::RestartNeeded(_))) && methods::only_reads(method) {
            let fresh =
                client::connect(&self.socket)
                    .await
                    .map_err(|source| Failure::Unreachable {
                        socket: self.socket.clone(),
                        source,
                    })?;
            outcome = fresh.request(method, again).await;
        }
        let raw = match outcome {
            Ok(raw) => raw,
            Err(error @ Error::RestartNeeded(_)) => {
                let lost = Failure::of_client(doing, error);
                return Err(stream::refusal(&self.socket, doing).await.unwrap_or(lost));
            }
            Err(error) => return Err(Failure::of_client(doing, error)),
        };
        Ok(Answer {
            doing: doing.to_owned(),
            raw,
        })
    }

    /// That `--timeout` passed while `doing`.
    pub(crate) fn deadline(&self, doing: &str, remedy: &str) -> Failure {
        Failure::Deadline {
            doing: doing.to_owned(),
            limit: self.limit.unwrap_or(CALL_LIMIT),
            remedy: remedy.to_owned(),
        }
    }

    /// Begins a subscription, on a connection of its own.
    pub(crate) async fn subscribe(
        &self,
        doing: &str,
        method: &str,
        params: Params,
    ) -> Result<Items, Failure> {
        let deadline = self.limit.map(|limit| (self.started + limit, limit));
        stream::subscribe(&self.socket, deadline, doing, method, params.0).await
    }
}

/// Begins a subscription that lasts as long as what it tells of.
pub(crate) async fn subscribe(
    socket: &Path,
    doing: &str,
    method: &str,
    params: Params,
) -> Result<Items, Failure> {
    stream::subscribe(socket, None, doing, method, params.0).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_are_null_are_not_sent() {
        let Params(sent) = Params::named(serde_json::json!({"a": 1, "b": null}));
        assert_eq!(
            sent.map(|raw| raw.get().to_owned()),
            Some(r#"{"a":1}"#.to_owned())
        );
        let Params(sent) = Params::named(serde_json::json!({"b": null}));
        assert!(sent.is_none());
    }

    #[test]
    fn a_socket_on_the_command_line_wins_over_a_root() {
        let global = Global {
            socket: Some("/a".into()),
            root: Some("/b".into()),
            ..Global::default()
        };
        assert_eq!(socket_path(&global), Path::new("/a"));
        let global = Global {
            root: Some("/b".into()),
            ..Global::default()
        };
        assert_eq!(socket_path(&global), Path::new("/b/run/control.sock"));
    }
}
