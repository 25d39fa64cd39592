//! What pawd promises, through its real sockets, without root: the real pawd and the real audit writer, a fake launcher that runs
//! the real paw-init without walls, and a model that says what a test tells it to.
//!
//! When the tests run as root, everything that they start runs as nobody. What the kernel promises is tested in `e2e`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod actions;
mod adopt;
mod agents;
mod approvals;
mod attacks;
mod attempts;
mod bad_input;
mod bench;
mod boundaries;
mod breakers;
mod budgets;
mod carried;
mod certificates;
mod changes;
mod chaos;
mod chat;
mod clock;
mod control;
mod costs;
mod crash;
mod dead;
mod durable;
mod factors;
mod grants;
mod guard;
mod health;
mod hedge;
mod helpers;
mod instructions;
mod jobs;
mod kept;
mod leaving;
mod lengths;
mod mcp;
mod memory;
mod metrics;
mod misbehaving;
mod models;
mod needs;
mod places;
mod policy;
mod pool;
mod providers;
mod pulls;
mod queue;
mod quotas;
mod rates;
mod recorded;
mod rekey;
mod remembers;
mod resume;
mod retry;
mod routes;
mod sandbox;
mod secrets;
mod select;
mod service;
mod sessions;
mod skills;
mod stall;
mod start;
mod stopped;
mod terminals;
mod tls;
mod trail;
mod turns;
mod typed;
mod vault;
mod waiting;
mod watch;
mod wires;
