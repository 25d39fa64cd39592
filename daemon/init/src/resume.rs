//! The answer to an outside that goes on where a killed one stopped. See [`paw_launch::resume`].

use std::collections::BTreeMap;

use paw_launch::{
    frame::Tag,
    resume::{Nonce, Resumed},
};

use crate::{child::Child, outbox::Outbox};

/// The payload of the frame was no nonce.
#[derive(Debug)]
pub(crate) struct NoNonce;

/// Answers, and prepares to say again whatever was not acknowledged or forgotten.
pub(crate) fn resume(
    nonce: &[u8],
    children: &mut BTreeMap<u32, Child>,
    outbox: &mut Outbox,
) -> Result<(), NoNonce> {
    let nonce: Nonce = nonce.try_into().map_err(|_| NoNonce)?;
    outbox.clear();
    let resumed = Resumed {
        children: children
            .iter_mut()
            .map(|(number, child)| child.resume(*number))
            .collect(),
    };
    let mut answer = nonce.to_vec();
    serde_json::to_writer(&mut answer, &resumed).expect("numbers can be written as JSON");
    outbox.data(Tag::Resume, 0, &answer);
    Ok(())
}
