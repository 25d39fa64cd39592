//! How much of what was said is kept.

use serde::Serialize;

use super::{fault::Faults, layers::Layers};

/// Bounds of the conversations of each user. Beyond them the one that was last spoken in longest ago is forgotten first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SessionBounds {
    /// How many.
    pub keep: u64,
    /// Bytes of all that was said in them.
    pub bytes: u64,
    /// Days since one was last spoken in; 0 for ever.
    pub days: u32,
}

pub(super) fn sessions(layers: &Layers, faults: &mut Faults) -> SessionBounds {
    SessionBounds {
        keep: layers.number(
            |f| f.sessions.as_ref()?.keep.as_ref(),
            10_000,
            1..=1_000_000,
            faults,
        ),
        bytes: layers.number(
            |f| f.sessions.as_ref()?.bytes.as_ref(),
            1 << 30,
            (1 << 20)..=(1 << 40),
            faults,
        ),
        days: layers.number(
            |f| f.sessions.as_ref()?.days.as_ref(),
            0,
            0..=36_500,
            faults,
        ),
    }
}
