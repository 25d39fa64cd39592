//! The control plane from outside: real Unix sockets, real bytes, methods of our own behind the real gate.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bounds;
mod framings;
mod gate;
mod hostile;
mod lifecycle;
mod rig;
mod subscriptions;
mod wire;
