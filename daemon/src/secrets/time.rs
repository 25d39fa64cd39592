//! Versions whose time is over are destroyed when it is, whether anybody asks for them or not.

use std::time::Duration;

use paw_vault::Mark;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Secrets, admin::Told};
use crate::clock::now_ms;

/// How long to wait until the clock is asked again: somebody may set it.
const LOOK: Duration = Duration::from_secs(3_600);

/// How long to wait after it failed, for want of a record or of room.
const AGAIN: Duration = Duration::from_secs(60);

impl Secrets {
    /// Destroys each version when its time is over, until it is stopped.
    pub async fn keep_time(self, stop: CancellationToken) {
        let mut failed = false;
        loop {
            let changed = self.0.changed.notified();
            let until = match self.next_end() {
                _ if failed => AGAIN,
                None => LOOK,
                Some(end) => Duration::from_millis(end.saturating_sub(now_ms())).min(LOOK),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed => failed = false,
                () = sleep(until) => failed = !self.sweep().await,
            }
        }
    }

    /// When the next version ends; never while the vault is sealed.
    fn next_end(&self) -> Option<u64> {
        let secrets = self.vault().and_then(|vault| vault.secrets()).ok()?;
        let versions = secrets.iter().flat_map(|secret| &secret.versions);
        versions.filter_map(|version| version.until_ms).min()
    }

    /// Destroys what is over; whether that could be done.
    async fn sweep(&self) -> bool {
        let now = now_ms();
        if self.next_end().is_none_or(|end| end > now) {
            return true;
        }
        let note = Told::of_vault(None, "versions destroyed whose time is over");
        let swept = self.change(note, move |vault, _| {
            let mark: Mark = match vault.sweep(now)? {
                Some(mark) => mark,
                None => vault.mark()?,
            };
            Ok(((), mark))
        });
        match swept.await {
            Ok(()) => {
                info!("versions of secrets are destroyed, their time is over");
                true
            }
            Err(error) => {
                warn!(reason = %error.message, remedy = %error.data.hint, "versions of secrets whose time is over are still there");
                false
            }
        }
    }
}
