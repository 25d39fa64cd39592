//! The key of the vault in a file of root's. A new one stands beside the old one until the vault has it: pawd looks at both, and
//! whatever is interrupted, one of them opens the vault.
//!
//! Whoever changes it is alone from the first look at the directory to the last: of two at once, one would write over the draft that the
//! other is about to put in its place, and the vault would have a key that is nowhere.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use paw_api::secret::Hidden;
use secrecy::{ExposeSecret as _, SecretString, zeroize::Zeroizing};

use crate::{cli::Global, fail::Failure};

const NAME: &str = "vault.key";

/// What it ends in while it is about to take the place of another one.
const NEXT: &str = "key.next";

/// And while it is being written: what stands there is no key that anybody looks at.
const DRAFT: &str = "key.draft";

/// And the file whose lock whoever changes the key holds. It is root's alone: the directory may be read, and so locked, by everybody.
const LOCK: &str = "key.lock";

/// Bytes of a key.
const KEY: usize = 32;

/// A key, and where it stands.
pub(super) struct KeyFile {
    digits: SecretString,
    path: PathBuf,
    /// The place that it takes once the vault has it.
    place: PathBuf,
    /// Whether it was made now, and opens nothing unless the vault takes it.
    is_new: bool,
    /// The lock: nobody else changes the key meanwhile.
    _alone: File,
}

impl KeyFile {
    /// A new key where there is none.
    pub(super) fn create(global: &Global) -> Result<Self, Failure> {
        let place = place(global);
        let alone = alone(&place)?;
        Self::make(place.clone(), place, alone)
    }

    /// A new key beside the one that is there; or the one that an interrupted change left there.
    pub(super) fn next(global: &Global) -> Result<Self, Failure> {
        let place = place(global);
        let alone = alone(&place)?;
        let path = place.with_extension(NEXT);
        match read(&path) {
            Ok(digits) => Ok(Self {
                digits,
                path,
                place,
                is_new: false,
                _alone: alone,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path, place, alone),
            Err(error) => Err(failed("read", &path, &error)),
        }
    }

    fn make(path: PathBuf, place: PathBuf, alone: File) -> Result<Self, Failure> {
        let mut bytes = Zeroizing::new([0; KEY]);
        let digits = File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut bytes[..]))
            .map(|()| digits(&bytes[..]))
            .map_err(|error| Failure::io("get random numbers", &error))?;
        let draft = place.with_extension(DRAFT);
        let written = write(&draft, &digits).and_then(|()| {
            // It appears there whole, and never in the place of another one.
            let linked = fs::hard_link(&draft, &path);
            fs::remove_file(&draft)?;
            linked?;
            sync_directory(&path)
        });
        match written {
            Ok(()) => Ok(Self {
                digits,
                path,
                place,
                is_new: true,
                _alone: alone,
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Failure::Usage {
                doing: "write the key of the vault".to_owned(),
                why: format!("{} is there already", path.display()),
                remedy: "restart pawd, so that it is read, and run the command without --key-file"
                    .to_owned(),
            }),
            Err(error) => Err(failed("write", &path, &error)),
        }
    }

    /// The key, as pawd takes it.
    pub(super) fn digits(&self) -> Hidden {
        Hidden(self.digits.clone())
    }

    /// The vault has it: it takes the place of the one before.
    pub(super) fn is_in_use(&self) -> Result<(), Failure> {
        self.put_in_place()
            .map_err(|error| failed("put the new key into the place of", &self.place, &error))
    }

    fn put_in_place(&self) -> io::Result<()> {
        let from = if self.stands_there() {
            self.path.clone()
        } else {
            // Somebody removed it, or put another one there. The vault has this one, which is nowhere else.
            let draft = self.place.with_extension(DRAFT);
            write(&draft, &self.digits)?;
            draft
        };
        fs::rename(from, &self.place)?;
        sync_directory(&self.place)
    }

    /// The vault does not have it. One that an earlier change left is not known to be of no use: that change may have been done.
    pub(super) fn is_of_no_use(&self) {
        if self.is_new && self.stands_there() {
            // One that stays is tried and opens nothing.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Whether the file has this key still.
    fn stands_there(&self) -> bool {
        read(&self.path).is_ok_and(|found| found.expose_secret() == self.digits.expose_secret())
    }
}

/// The keys that stand there and that we may read.
pub(super) fn found(global: &Global) -> Vec<Hidden> {
    let place = place(global);
    [place.clone(), place.with_extension(NEXT)]
        .iter()
        .filter_map(|path| read(path).ok())
        .map(Hidden)
        .collect()
}

fn place(global: &Global) -> PathBuf {
    match &global.root {
        Some(root) => root.join("etc").join(NAME),
        None => Path::new("/etc/pawd").join(NAME),
    }
}

/// The lock of the key, which nobody else has as long as this is held, and the kernel gives back whatever becomes of us.
fn alone(place: &Path) -> Result<File, Failure> {
    let path = place.with_extension(LOCK);
    let opened = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let file = opened.map_err(|error| failed("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::Local {
            doing: "write the key of the vault".to_owned(),
            why: format!("another pawctl is changing it, and has {}", path.display()),
            remedy: "wait until it has ended, and see whether it is done: pawctl secret status"
                .to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path, &error)),
    }
}

fn read(path: &Path) -> io::Result<SecretString> {
    let mut text = Zeroizing::new(String::with_capacity(4 * KEY));
    File::open(path)?
        .take(4 * KEY as u64)
        .read_to_string(&mut text)?;
    Ok(SecretString::from(text.trim().to_owned()))
}

/// Writes a key where one that was begun may have been left.
fn write(path: &Path, digits: &SecretString) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(path)?;
    file.write_all(digits.expose_secret().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

fn digits(bytes: &[u8]) -> SecretString {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(half), 16).unwrap_or('0'));
        }
    }
    SecretString::from(text)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn failed(step: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::io(format!("{step} {}", path.display()), error)
}
