//! Files of `/proc` and of cgroups.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// What such a file may have, in bytes: mountinfo of a host with ten thousand mounts is a quarter of it.
const MOST: u64 = 16 << 20;

/// How much is read at once: nearly every file in one call.
const AT_ONCE: usize = 8 << 10;

/// Its text. The kernel says of these files that they are empty, so the standard library would feel its way from 32 bytes on: each
/// sandbox is read from forty of them.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(AT_ONCE);
    let read = File::open(path)?.take(MOST).read_to_end(&mut bytes)?;
    if read as u64 == MOST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_read_whole_and_an_endless_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for length in [0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 10 * AT_ONCE] {
            std::fs::write(&path, "x".repeat(length)).unwrap();
            assert_eq!(read(&path).unwrap().len(), length);
        }
        assert_eq!(
            read(Path::new("/proc/self/mountinfo")).unwrap(),
            std::fs::read_to_string("/proc/self/mountinfo").unwrap()
        );
        assert_eq!(
            read(Path::new("/dev/zero")).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
    }
}
