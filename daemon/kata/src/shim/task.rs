//! What is asked of a shim: one task, from its making to its removal.

use std::{
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use containerd_shim_protos::{
    api::{
        CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, Empty,
        ShutdownRequest, StartRequest, StartResponse, WaitRequest, WaitResponse,
    },
    protobuf::{Message, MessageField, well_known_types::any::Any},
    shim::oci::Options,
};

use crate::wire::{Caller, WireError};

/// How long it may take to remove a task.
pub(crate) const REMOVING: Duration = Duration::from_secs(2);

/// How long it may take to say that it ends.
pub(crate) const ENDING: Duration = Duration::from_secs(1);

/// A task lives as long as its sandbox; the launcher ends it before.
const LIFE: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The task service of a shim.
pub(crate) struct Task {
    pub(crate) caller: Caller,
    id: String,
    version: u32,
    /// Whether the shim answered in this version.
    settled: bool,
}

fn service(version: u32) -> String {
    format!("containerd.task.v{version}.Task")
}

impl Task {
    /// A connection, to a shim that says it speaks this version.
    pub(crate) fn new(socket: UnixStream, version: u32, id: &str) -> Result<Self, WireError> {
        Ok(Self {
            caller: Caller::new(socket, service(version))?,
            id: id.to_owned(),
            version,
            settled: false,
        })
    }

    /// Asks. The first call also finds out which version of the service is spoken: one that the shim does not know is refused
    /// before anything is done, and then the other is asked, in what is left of the time.
    fn ask<R: Message>(
        &mut self,
        method: &'static str,
        request: &impl Message,
        limit: Duration,
    ) -> Result<R, WireError> {
        let until = Instant::now() + limit;
        let mut answer = self.caller.call(method, request, limit);
        if !self.settled && matches!(answer, Err(WireError::Unimplemented { .. })) {
            self.version = if self.version == 2 { 3 } else { 2 };
            self.caller.service = service(self.version);
            let left = until.saturating_duration_since(Instant::now());
            answer = self.caller.call(method, request, left);
        }
        self.settled |= matches!(answer, Ok(_) | Err(WireError::Refused { .. }));
        answer
    }

    /// Makes it, not started; gives its process. `is_kata`: the shim has a configuration of its own.
    pub(crate) fn create(
        &mut self,
        bundle: &Path,
        is_kata: bool,
        limit: Duration,
    ) -> Result<u32, WireError> {
        let path = |name: &str| bundle.join(name).to_string_lossy().into_owned();
        let request = CreateTaskRequest {
            id: self.id.clone(),
            bundle: bundle.to_string_lossy().into_owned(),
            stdin: path("in"),
            stdout: path("out"),
            stderr: path("err"),
            options: if is_kata {
                MessageField::none()
            } else {
                for_runc()?
            },
            ..CreateTaskRequest::default()
        };
        self.ask("Create", &request, limit)
            .map(|made: CreateTaskResponse| made.pid)
    }

    /// Lets its first process go.
    pub(crate) fn start(&mut self, limit: Duration) -> Result<(), WireError> {
        let request = StartRequest {
            id: self.id.clone(),
            ..StartRequest::default()
        };
        self.ask::<StartResponse>("Start", &request, limit)
            .map(drop)
    }

    /// Asks for its end; gives the number of the answer, which comes when it comes.
    pub(crate) fn wait(&mut self) -> Result<u32, WireError> {
        let request = WaitRequest {
            id: self.id.clone(),
            ..WaitRequest::default()
        };
        self.caller.send("Wait", &request, LIFE)
    }

    /// The end, if it came.
    pub(crate) fn ended(&mut self, asked: u32) -> Result<Option<u32>, WireError> {
        let answer: Option<WaitResponse> = self.caller.answer("Wait", asked)?;
        Ok(answer.map(|answer| answer.exit_status))
    }

    /// Removes it; its processes have ended.
    pub(crate) fn delete(&mut self) -> Result<(), WireError> {
        let request = DeleteRequest {
            id: self.id.clone(),
            ..DeleteRequest::default()
        };
        self.ask::<DeleteResponse>("Delete", &request, REMOVING)
            .map(drop)
    }

    /// Ends the shim. It may be gone before it has answered.
    pub(crate) fn shutdown(&mut self) -> Result<(), WireError> {
        let request = ShutdownRequest {
            id: self.id.clone(),
            now: true,
            ..ShutdownRequest::default()
        };
        match self.ask::<Empty>("Shutdown", &request, ENDING) {
            Ok(_) | Err(WireError::Closed) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What runc's shim is told: a sandbox has no use for a keyring, which runc would make for it with a system call that is forbidden
/// here. Kata's refuses options that it does not know.
fn for_runc() -> Result<MessageField<Any>, WireError> {
    let options = Options {
        no_new_keyring: true,
        ..Options::default()
    };
    Ok(MessageField::some(Any {
        type_url: "containerd.runc.v1.Options".to_owned(),
        value: options.write_to_bytes().map_err(WireError::Unwritable)?,
        ..Any::default()
    }))
}
