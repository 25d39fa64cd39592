//! What a shim says, for the fuzzer: answers to requests, and events that nobody asked for.

use std::{io::Write as _, os::unix::net::UnixStream};

use containerd_shim_protos::api::{StartResponse, WaitResponse};

use crate::{
    events::hear,
    wire::{Caller, Frames},
};

/// Has the shim of the sandbox `id` say these bytes: as events, and as answers to the requests with the first two numbers.
pub fn said(bytes: &[u8], id: &str) {
    if let Some((ours, _theirs)) = saying(bytes) {
        let (mut frames, mut told) = (Frames::default(), Vec::new());
        while frames.fill(&ours).is_ok() && hear(&ours, &mut frames, id, &mut told).is_ok() {
            if frames.next().is_ok_and(|frame| frame.is_none()) {
                break;
            }
        }
    }
    if let Some((ours, _theirs)) = saying(bytes)
        && let Ok(mut caller) = Caller::new(ours, "containerd.task.v3.Task".to_owned())
        && caller.fill().is_ok()
    {
        let _ = caller.answer::<StartResponse>("Start", 1);
        let _ = caller.answer::<WaitResponse>("Wait", 3);
    }
}

/// A connection at whose other end these bytes were said. What does not fit into it is not waited for.
fn saying(bytes: &[u8]) -> Option<(UnixStream, UnixStream)> {
    let (ours, mut theirs) = UnixStream::pair().ok()?;
    ours.set_nonblocking(true).ok()?;
    theirs.set_nonblocking(true).ok()?;
    theirs.write_all(bytes).ok()?;
    Some((ours, theirs))
}
