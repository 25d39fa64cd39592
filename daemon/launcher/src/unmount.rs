//! What a shim mounted in a bundle, unmounted before the bundle is removed with all that is in it.

use std::{
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, umount2};

const MOUNTS: &str = "/proc/self/mountinfo";

/// Why something is still mounted there.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// The kernel does not say what is mounted.
    #[error("read {MOUNTS}")]
    Unknown(#[source] io::Error),
    /// One mount stays.
    #[error("unmount {path}")]
    Stays {
        /// Where it is.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

/// Unmounts everything below a directory, the innermost first.
///
/// # Errors
/// When something is still mounted: what is below the directory may be somebody else's, and must not be removed.
pub fn below(dir: &Path) -> Result<(), UnmountError> {
    let mounts = fs::read_to_string(MOUNTS).map_err(UnmountError::Unknown)?;
    for path in targets(&mounts, dir).into_iter().rev() {
        umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| {
            UnmountError::Stays {
                path,
                source: errno.into(),
            }
        })?;
    }
    Ok(())
}

/// What of a mountinfo is below a directory, in the order of mounting.
fn targets(mounts: &str, dir: &Path) -> Vec<PathBuf> {
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(unescape))
        .filter(|target| target.starts_with(dir))
        .collect()
}

/// A path as mountinfo writes it: blanks, line ends and backslashes are a backslash and three octal digits.
fn unescape(written: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(written.len());
    let mut left = written.as_bytes();
    while let Some((&first, rest)) = left.split_first() {
        let octal = rest
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(octal.unwrap_or(first));
        left = if octal.is_some() { &rest[3..] } else { rest };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_below_is_found_by_its_real_name() {
        let line = |target: &str| format!("1 2 0:3 / {target} rw - tmpfs tmpfs rw\n");
        let mounts = [
            "/s/a",
            "/s/a/b\\040c",
            "/s/ab",
            "/s/a/\\134040",
            "/s",
            "/s/a/x\\",
        ]
        .map(line)
        .concat();
        assert_eq!(
            targets(&mounts, Path::new("/s/a")),
            ["/s/a", "/s/a/b c", "/s/a/\\040", "/s/a/x\\"].map(PathBuf::from)
        );
    }
}
