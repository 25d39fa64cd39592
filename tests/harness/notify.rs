//! The socket on which a service tells systemd how it is.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use tokio::net::UnixDatagram;

use crate::within;

/// A notify socket, and everything that was said on it.
pub struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
    said: Mutex<Vec<String>>,
}

impl Notify {
    /// Listens at `path`; everybody may speak.
    ///
    /// # Panics
    /// When the socket cannot be made.
    #[must_use]
    pub fn bind(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("the root is ours");
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("the root is ours");
        Self {
            socket,
            path: path.to_owned(),
            said: Mutex::new(Vec::new()),
        }
    }

    /// For `NOTIFY_SOCKET`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the next message and gives its lines.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn next(&self) -> Vec<String> {
        within("a message on the notify socket", self.read()).await
    }

    /// Waits until a line begins with `start`, and gives it. What was said before this call does not count.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn hears(&self, start: &str) -> String {
        within(&format!("{start} on the notify socket"), async {
            loop {
                if let Some(line) = self
                    .read()
                    .await
                    .into_iter()
                    .find(|line| line.starts_with(start))
                {
                    return line;
                }
            }
        })
        .await
    }

    /// Every line so far, in order.
    ///
    /// # Panics
    /// Never; the lock is a leaf.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        self.said.lock().expect("nobody panics with it").clone()
    }

    async fn read(&self) -> Vec<String> {
        let mut message = vec![0; 8192];
        let length = self
            .socket
            .recv(&mut message)
            .await
            .expect("the socket is ours");
        let lines: Vec<String> = String::from_utf8_lossy(&message[..length])
            .lines()
            .map(str::to_owned)
            .collect();
        self.said
            .lock()
            .expect("nobody panics with it")
            .extend(lines.iter().cloned());
        lines
    }
}
