//! What paw-shim tells the launcher about a containerd shim and its task: lines of JSON in a file of the bundle.
//!
//! A file and not a pipe, because three processes need it one after another: the paw-shim that attends to the shim writes it, the
//! launcher reads it when the sandbox says hello and when it ends, and the paw-shim that clears up reads where the shim listens.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// How long clearing up behind a shim may take. The steps of paw-shim add up to less; the launcher kills it after that.
pub const CLEARING: Duration = Duration::from_secs(10);

/// The file's name in the bundle.
pub const FILE: &str = "said";

/// The most bytes that are read of it; it has a handful of lines.
const MAX: u64 = 64 * 1024;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Said {
    /// The shim runs.
    Shim {
        /// Its socket.
        address: String,
        /// Which version of the task service it says it speaks.
        version: u32,
    },
    /// The task was made and is about to start.
    Task {
        /// Its first process as the shim calls it: paw-init, or what runs the virtual machine.
        pid: i32,
    },
    /// The task ended by itself.
    End {
        /// Exit status; 128 and the number of a signal that ended it.
        status: u32,
        /// The shim said that something in it was killed for want of memory.
        oom: bool,
    },
    /// The shim is gone, or of no use any more, before the task's end was seen.
    Lost {
        /// Why.
        why: String,
    },
}

/// What stands in the file of this bundle, in order. A line that is not whole was never said.
///
/// # Errors
/// When the file cannot be read; nothing was said yet when it is not there.
pub fn read(bundle: &Path) -> io::Result<Vec<Said>> {
    let file = match fs::File::open(bundle.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(MAX).read_to_string(&mut text)?;
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_that_is_not_whole_was_never_said() {
        let dir = std::env::temp_dir().join(format!("paw-said-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let whole = serde_json::to_string(&Said::Task { pid: 7 }).unwrap();
        fs::write(dir.join(FILE), format!("{whole}\n{{\"end\":{{\"sta")).unwrap();
        let said = read(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(said, [Said::Task { pid: 7 }]);
    }

    #[test]
    fn nothing_was_said_where_there_is_no_file() {
        assert_eq!(read(Path::new("/nowhere")).unwrap(), []);
    }
}
