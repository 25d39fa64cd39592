//! What hostile probes have shown of each runtime on this host, and what follows for its use.
//!
//! ```text
//!                     probes all held, on this start of the host
//!   unproven ────────────────────────────────────────────────────► proven ── used
//!      │  ▲   another program, another kernel, another start          │
//!      │  └───────────────────────────────────────────────────────────┘
//!      │ a probe was not held                       used, unless [sandbox] require_proof
//!      ▼
//!   fallen ── refused, also after another start, until the probes hold or program or kernel are others
//! ```
//!
//! A sandbox that was attested is no proof: the attestation says what confines it, and the probes say that this holds.

use std::{
    collections::BTreeMap,
    fs, io,
    sync::{Arc, Mutex, PoisonError},
};

use paw_launch::request::{ProofState, RuntimeState};
use paw_store::{Batch, ProofRecord, Store, StoreError};
use uuid::Uuid;

use crate::storage::Storage;

/// Where the kernel tells its id of this start.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is known of a runtime, and whether it may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its probes held.
    Proven(String),
    /// Nothing is known that speaks against it; why its probes do not count.
    Unproven(String),
    /// A probe was not held.
    Fallen(String),
}

/// Which host, kernel and start of it this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Release and build of the kernel.
    pub kernel: String,
    /// The kernel's own id of this start.
    pub boot: Uuid,
}

impl Host {
    /// As the kernel says. `boot` is the id of this start where `/proc` shows processes alone, as it does in pawd's unit.
    ///
    /// # Errors
    /// When `boot` is not given and `/proc` does not have it.
    pub fn read(boot: Option<Uuid>) -> io::Result<Self> {
        let boot = match boot {
            Some(boot) => boot,
            None => fs::read_to_string(BOOT_ID)?
                .trim()
                .parse()
                .map_err(io::Error::other)?,
        };
        let kernel = rustix::system::uname();
        Ok(Self {
            kernel: format!(
                "{} {}",
                kernel.release().to_string_lossy(),
                kernel.version().to_string_lossy()
            ),
            boot,
        })
    }
}

/// What was seen of one runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tried {
    /// How many probes were made.
    pub probes: u64,
    /// Those that were not held.
    pub fallen: Vec<String>,
    /// Those that could not be made.
    pub not_made: Vec<String>,
}

/// All that is known. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Proofs {
    host: Host,
    known: Arc<Mutex<BTreeMap<String, ProofRecord>>>,
}

impl Proofs {
    /// What the store has.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(store: &Store, host: Host) -> Result<Self, StoreError> {
        let known = store
            .proofs()?
            .into_iter()
            .map(|proof| (proof.runtime.clone(), proof))
            .collect();
        Ok(Self {
            host,
            known: Arc::new(Mutex::new(known)),
        })
    }

    /// Keeps what was seen of a runtime, in place of what was seen before; durable on return.
    ///
    /// # Errors
    /// When it cannot be written. It counts all the same until pawd ends.
    pub async fn keep(
        &self,
        storage: &Storage,
        runtime: &RuntimeState,
        tried: Tried,
        at_ms: u64,
    ) -> Result<(), StoreError> {
        let proof = ProofRecord {
            runtime: runtime.name.to_string(),
            version: runtime.version.clone(),
            digest: runtime.digest.map(|digest| digest.to_string()),
            kernel: self.host.kernel.clone(),
            boot: self.host.boot.to_string(),
            at_ms,
            probes: tried.probes,
            fallen: tried.fallen,
            not_made: tried.not_made,
        };
        let mut batch = Batch::new();
        batch.put_proof(&proof)?;
        self.lock().insert(proof.runtime.clone(), proof);
        storage.commit(batch).await
    }

    /// What is known of a runtime as the launcher describes it now.
    #[must_use]
    pub fn of(&self, runtime: &RuntimeState) -> Standing {
        let known = self.lock();
        let Some(proof) = known.get(runtime.name.as_str()) else {
            return Standing::Unproven("its probes were not run here".into());
        };
        let digest = runtime.digest.map(|digest| digest.to_string());
        if (&proof.version, &proof.digest) != (&runtime.version, &digest) {
            return Standing::Unproven("its probes were run with another program".into());
        }
        if proof.kernel != self.host.kernel {
            return Standing::Unproven("its probes were run on another kernel".into());
        }
        if !proof.fallen.is_empty() {
            return Standing::Fallen(format!(
                "{} of {} probes were not held: {}",
                proof.fallen.len(),
                proof.probes,
                shown(&proof.fallen)
            ));
        }
        if !proof.not_made.is_empty() {
            return Standing::Unproven(format!(
                "probes could not be made: {}",
                shown(&proof.not_made)
            ));
        }
        if proof.boot.parse() != Ok(self.host.boot) {
            return Standing::Unproven(format!(
                "{} probes held before the host was started again",
                proof.probes
            ));
        }
        Standing::Proven(format!(
            "{} probes held since the host was started",
            proof.probes
        ))
    }

    /// The runtime as people see it: proven by probes alone, and not by having been used.
    #[must_use]
    pub fn shown(&self, runtime: RuntimeState) -> RuntimeState {
        if runtime.state == ProofState::Absent {
            return runtime;
        }
        let (state, reason) = match self.of(&runtime) {
            Standing::Proven(why) => (ProofState::Proven, why),
            Standing::Unproven(why) => (
                ProofState::Unverified,
                format!("{why}; run `pawctl doctor --prove`"),
            ),
            Standing::Fallen(why) => (
                ProofState::Unverified,
                format!("it is not used: {why}; mend it, then run `pawctl doctor --prove`"),
            ),
        };
        RuntimeState {
            state,
            reason,
            ..runtime
        }
    }

    /// Why a runtime that is here may not be used, if it may not.
    #[must_use]
    pub fn objection(&self, runtime: &RuntimeState, proof_is_required: bool) -> Option<String> {
        match self.of(runtime) {
            Standing::Proven(_) => None,
            Standing::Unproven(why) => proof_is_required.then(|| {
                format!("[sandbox] require_proof is set, and {why}; run `pawctl doctor --prove`")
            }),
            Standing::Fallen(why) => {
                Some(format!("{why}; mend it, then run `pawctl doctor --prove`"))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, ProofRecord>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first few names.
fn shown(names: &[String]) -> String {
    let few: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
    let more = names.len().saturating_sub(few.len());
    if more == 0 {
        few.join(", ")
    } else {
        format!("{}, and {more} more", few.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use paw_launch::request::{Isolation, Runtime};
    use paw_policy::Digest;
    use paw_store::OpenOptions;

    use super::*;

    fn runtime(program: &[u8]) -> RuntimeState {
        RuntimeState {
            name: Runtime::Gvisor,
            state: ProofState::Unverified,
            version: Some("runsc 1".into()),
            reason: String::new(),
            digest: Some(Digest::of(program)),
            isolation: Isolation::Kernel,
        }
    }

    fn host(kernel: &str, boot: u128) -> Host {
        Host {
            kernel: kernel.into(),
            boot: Uuid::from_u128(boot),
        }
    }

    struct Rig {
        storage: Storage,
        _dir: tempfile::TempDir,
    }

    fn rig() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s.redb"), OpenOptions::new("test")).unwrap();
        Rig {
            storage: Storage::start(Arc::new(store), 100).unwrap(),
            _dir: dir,
        }
    }

    impl Rig {
        fn proofs(&self, kernel: &str, boot: u128) -> Proofs {
            Proofs::read(self.storage.read(), host(kernel, boot)).unwrap()
        }

        async fn tried(&self, fallen: &[&str]) {
            let names = fallen.iter().map(|name| (*name).to_owned()).collect();
            let tried = Tried {
                probes: 70,
                fallen: names,
                not_made: Vec::new(),
            };
            self.proofs("6.1", 1)
                .keep(&self.storage, &runtime(b"x"), tried, 1)
                .await
                .unwrap();
        }
    }

    #[test]
    fn start_is_the_same_whoever_names_it() {
        let by_proc = Host::read(None).unwrap();
        // systemd writes it without dashes.
        let by_unit = by_proc.boot.simple().to_string().parse().unwrap();
        assert_eq!(Host::read(Some(by_unit)).unwrap(), by_proc);
        assert_ne!(Host::read(Some(Uuid::nil())).unwrap(), by_proc);
    }

    #[tokio::test]
    async fn what_was_not_tried_is_used_unless_proof_is_required() {
        let proofs = rig().proofs("6.1", 1);
        assert_eq!(proofs.objection(&runtime(b"x"), false), None);
        let why = proofs.objection(&runtime(b"x"), true).unwrap();
        assert!(why.contains("doctor --prove"), "{why}");
    }

    #[tokio::test]
    async fn proof_counts_for_this_program_kernel_and_start_alone() {
        let rig = rig();
        rig.tried(&[]).await;
        let check = |kernel, boot, program: &[u8], proven| {
            let standing = rig.proofs(kernel, boot).of(&runtime(program));
            assert_eq!(
                matches!(standing, Standing::Proven(_)),
                proven,
                "{standing:?}"
            );
        };
        check("6.1", 1, b"x", true);
        check("6.2", 1, b"x", false);
        check("6.1", 2, b"x", false);
        check("6.1", 1, b"y", false);
    }

    #[tokio::test]
    async fn runtime_that_fell_is_refused_until_its_probes_hold() {
        let rig = rig();
        rig.tried(&["mount a file system"]).await;
        // Another start of the host changes nothing about it.
        for boot in [1, 2] {
            let why = rig
                .proofs("6.1", boot)
                .objection(&runtime(b"x"), false)
                .unwrap();
            assert!(why.contains("mount a file system"), "{why}");
        }
        // Another program is another runtime.
        assert_eq!(rig.proofs("6.1", 1).objection(&runtime(b"y"), false), None);
        rig.tried(&[]).await;
        assert_eq!(rig.proofs("6.1", 1).objection(&runtime(b"x"), true), None);
    }
}
