//! Providers against a server of our own on loopback that does, byte by byte, what a test tells it to.

mod answers;
mod caches;
mod failures;
mod limits;
mod server;
