//! What makes sandboxes: one trait, one implementation for each runtime, and which of them are here.
//!
//! A runtime says how its specification looks, what its cgroup leaf has to be limited to, how it is started, and what can be
//! read from outside before the first command. Everything else (bundle, slot, leaf, deadline, end) is the same for all and is
//! in [`crate::sandbox`]. A runtime that is not here is refused with the reason; nothing takes its place.

mod gvisor;
mod native;

use std::{fmt, path::Path, rc::Rc};

use nix::unistd::Pid;
use paw_launch::{
    NOT_ALLOWED,
    request::{
        Attestation, Isolation, Limits, ProofState, Refusal, RefusalReason, Runtime, RuntimeState,
    },
    root::Temporary,
};
use paw_policy::Digest;
use serde_json::Value;

pub(crate) use self::{gvisor::Gvisor, native::Native};
use crate::{
    attest::{AttestError, Expected},
    bundle::Bound,
    ceilings::{Approved, Ceilings, refusal},
    cgroup::Leaf,
    kata::Pins,
    sandbox::CreateError,
    spawn::{Order, Spawned},
};

/// One way of making a sandbox.
pub(crate) trait Maker: fmt::Debug {
    /// Its name on the wire.
    fn name(&self) -> Runtime;

    /// What stands between a sandbox of it and this host.
    fn isolation(&self) -> Isolation {
        self.name().isolation()
    }

    /// The version of the program or library behind it, with what of it depends on this host.
    fn version(&self) -> String;

    /// Digest of the program that makes the sandbox.
    fn digest(&self) -> std::io::Result<Digest>;

    /// Why it cannot keep these limits, if it cannot.
    fn objection(&self, limits: &Limits) -> Option<String>;

    /// What the cgroup leaf is limited to, so that the plan's limits hold inside: the runtime may need something of its own.
    fn leaf_limits(&self, limits: &Limits) -> Limits;

    /// Where what is mounted is bound for a runtime that mounts everything itself, by paths, in a root that is made on disk as
    /// `rootfs` of the bundle. Nothing: paw-create puts the root together.
    fn pins(&self) -> Option<&Pins> {
        None
    }

    /// Temporary file systems that paw-create makes; what the specification names, the runtime mounts itself.
    fn temporary(&self, _: &Limits) -> Vec<Temporary> {
        Vec::new()
    }

    /// The OCI specification. The cgroup is the leaf's path.
    fn specification(&self, plan: &Approved, cgroup: &str, bound: &[Bound]) -> Value;

    /// Starts it, with paw-init's three streams as pipes.
    fn spawn(&self, order: &Order<'_>) -> Result<Spawned, CreateError>;

    /// Reads from outside what it is, and compares that with what was asked.
    fn attest(&self, pid: i32, expected: &Expected<'_>) -> Result<Attestation, AttestError>;

    /// What the runtime itself has told about the end, when the child that [`Maker::spawn`] gave was reaped.
    fn told(&self, _: &Path) -> Told {
        Told::default()
    }

    /// The cgroup of what it runs for a sandbox outside of the sandbox's own, if it does.
    fn beside(&self, _: &Leaf) -> Option<Leaf> {
        None
    }

    /// Starts what clears up behind the runtime, once the sandbox's own processes are killed: a child that ends when it is done.
    /// Most leave nothing that the kernel does not remove by itself.
    fn clear(&self, _: &Order<'_>) -> Result<Option<Pid>, CreateError> {
        Ok(None)
    }
}

/// What a runtime tells of an end, beside what the kernel counts.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Something inside was killed for want of memory, where only the sandbox's own kernel counts that.
    pub(crate) oom_killed: bool,
    /// The sandbox was not seen to end by itself, and why.
    pub(crate) lost: Option<String>,
}

/// The runtimes of this host, in the order of [`Runtime`].
#[derive(Debug)]
pub(crate) struct Runtimes {
    native: Availability,
    gvisor: Availability,
    kata: Availability,
}

#[derive(Debug)]
struct Availability {
    /// The runtime, or why it is not here.
    maker: Result<Rc<dyn Maker>, String>,
    /// Whether a sandbox of it was attested in this life.
    proven: bool,
}

impl Availability {
    fn of(maker: Result<Rc<dyn Maker>, String>) -> Self {
        Self {
            maker,
            proven: false,
        }
    }
}

impl Runtimes {
    /// Looks for what the ceilings allow. Programs are asked for their versions, so this comes before the launcher confines
    /// itself; `create` is the paw-create program.
    pub(crate) fn find(ceilings: &Ceilings, create: &Path) -> Self {
        let allowed = |runtime| {
            if ceilings.runtimes.contains(&runtime) {
                Ok(())
            } else {
                Err(format!("runtimes in launcher.toml {NOT_ALLOWED}"))
            }
        };
        let native =
            allowed(Runtime::Native).map(|()| Rc::new(Native::new(create)) as Rc<dyn Maker>);
        let gvisor = allowed(Runtime::Gvisor).and_then(|()| {
            let found = Gvisor::find(&ceilings.gvisor, create);
            found
                .map(|gvisor| Rc::new(gvisor) as Rc<dyn Maker>)
                .map_err(|error| paw_log::Chain(&error).to_string())
        });
        let kata = Err(
            "paw-launcher-kata makes these: a virtual machine needs rights on the host".to_owned(),
        );
        Self {
            native: Availability::of(native),
            gvisor: Availability::of(gvisor),
            kata: Availability::of(kata),
        }
    }

    /// Kata alone, or why it is not here: what a launcher with real root offers.
    pub(crate) fn kata(kata: Result<Rc<dyn Maker>, String>) -> Self {
        let elsewhere =
            || Err("paw-launcher, which has no right on the host, makes these".to_owned());
        Self {
            native: Availability::of(elsewhere()),
            gvisor: Availability::of(elsewhere()),
            kata: Availability::of(kata),
        }
    }

    /// Whether gVisor may be used, which needs more system calls than the others.
    pub(crate) fn has_gvisor(&self) -> bool {
        self.gvisor.maker.is_ok()
    }

    /// The runtime of this name.
    pub(crate) fn get(&self, name: Runtime) -> Result<Rc<dyn Maker>, Refusal> {
        self.of(name).maker.clone().map_err(|why| {
            refusal(
                RefusalReason::Runtime,
                format!("the runtime {name} cannot be used here: {why}"),
                "see `pawctl sandbox runtimes`; install it, or ask for a runtime that is here if its isolation will do",
            )
        })
    }

    /// A sandbox of it was made here and attested.
    pub(crate) fn prove(&mut self, name: Runtime) {
        match name {
            Runtime::Native => self.native.proven = true,
            Runtime::Gvisor => self.gvisor.proven = true,
            Runtime::Kata => self.kata.proven = true,
        }
    }

    /// All that the design knows, also those that are absent.
    pub(crate) fn states(&self) -> Vec<RuntimeState> {
        [Runtime::Native, Runtime::Gvisor, Runtime::Kata]
            .into_iter()
            .map(|name| {
                let Availability { maker, proven } = self.of(name);
                let (state, reason) = match (maker, proven) {
                    (Err(why), _) => (ProofState::Absent, why.as_str()),
                    (Ok(_), true) => (
                        ProofState::Proven,
                        "a sandbox of it was made and attested since the launcher started",
                    ),
                    (Ok(_), false) => (
                        ProofState::Unverified,
                        "no sandbox of it was made since the launcher started",
                    ),
                };
                RuntimeState {
                    name,
                    state,
                    version: maker.as_ref().ok().map(|maker| maker.version()),
                    reason: reason.to_owned(),
                    digest: maker.as_ref().ok().and_then(|maker| maker.digest().ok()),
                    isolation: maker
                        .as_ref()
                        .map_or(name.isolation(), |maker| maker.isolation()),
                }
            })
            .collect()
    }

    fn of(&self, name: Runtime) -> &Availability {
        match name {
            Runtime::Native => &self.native,
            Runtime::Gvisor => &self.gvisor,
            Runtime::Kata => &self.kata,
        }
    }
}
