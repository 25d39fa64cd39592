//! The share of a disk: a weight among the sandboxes that want it at the same time.
//!
//! It is the one limit that not every kernel has, and that holds only where a disk is scheduled by it: v1 has it from the
//! scheduler bfq, v2 from bfq or from the cost model of the io controller. So a plan may leave it out, what is not there is
//! told in the attestation and by `doctor`, and a plan that demands it is refused where there is no such file.

use std::{fs, path::Path};

use super::{CgroupError, mounted::read_text, mounted::write};

/// Files that take a weight, with the largest that each takes. Which of them exist depends on the kernel and on the version.
const FILES: [(&str, u16); 4] = [
    ("io.weight", 10_000),
    ("io.bfq.weight", 1_000),
    ("blkio.bfq.weight", 1_000),
    ("blkio.weight", 1_000),
];

/// The weight of a group for which nothing else is said, on every scale.
const USUAL: u16 = 100;

/// The largest weight of [`paw_launch::request::Limits::io_weight`].
pub(crate) const LARGEST: u16 = 10_000;

/// Writes the weight to every file that takes one.
pub(super) fn set(dir: &Path, weight: u16) -> Result<(), CgroupError> {
    let mut is_set = false;
    for (path, largest) in files(dir) {
        write(&path, &scaled(weight, largest).to_string())?;
        is_set = true;
    }
    if is_set {
        Ok(())
    } else {
        Err(CgroupError::NoIoWeight)
    }
}

/// Reads it back; `None` where the kernel has none. Without a weight that was set, it must be the usual one.
pub(super) fn read_back(dir: &Path, wanted: Option<u16>) -> Result<Option<u16>, CgroupError> {
    let mut found = None;
    for (path, largest) in files(dir) {
        let text = read_text(&path)?;
        let is = parse(&text).ok_or(CgroupError::Unreadable {
            path: path.clone(),
            what: "weight",
        })?;
        let weight = wanted.unwrap_or(USUAL);
        let scaled = scaled(weight, largest);
        if is != scaled {
            return Err(CgroupError::ReadBack {
                what: "io weight",
                is: is.into(),
                wanted: scaled.into(),
            });
        }
        found = Some(weight);
    }
    match (found, wanted) {
        (None, Some(_)) => Err(CgroupError::NoIoWeight),
        (found, _) => Ok(found),
    }
}

/// Why a weight does nothing here, if it does nothing. `dir` is a group whose leaves would have it.
pub(super) fn obstacle(dir: Option<&Path>) -> Option<String> {
    let has_file = dir.is_some_and(|dir| files(dir).next().is_some());
    if !has_file {
        return Some(
            "io weight: there is no io controller with weights in these groups".to_owned(),
        );
    }
    let by_bfq = fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
        .any(|disk| {
            fs::read_to_string(disk.path().join("queue/scheduler"))
                .is_ok_and(|schedulers| schedulers.contains("[bfq]"))
        });
    let by_cost = fs::read_to_string("/sys/fs/cgroup/io.cost.qos")
        .is_ok_and(|text| text.contains("enable=1"));
    (!by_bfq && !by_cost).then(|| {
        "io weight: it is set, and no disk here is scheduled by it (scheduler bfq, or io.cost.qos)"
            .to_owned()
    })
}

fn files(dir: &Path) -> impl Iterator<Item = (std::path::PathBuf, u16)> {
    FILES
        .map(|(name, largest)| (dir.join(name), largest))
        .into_iter()
        .filter(|(path, _)| path.exists())
}

/// On a scale that ends at 1000, as systemd does it: up to the usual weight they are the same, above it eleven times as coarse.
fn scaled(weight: u16, largest: u16) -> u16 {
    if largest == LARGEST || weight <= USUAL {
        weight
    } else {
        USUAL + (weight - USUAL) / 11
    }
}

/// `100`, or `default 100` before lines for single devices.
fn parse(text: &str) -> Option<u16> {
    let line = text.lines().next()?;
    line.strip_prefix("default ")
        .unwrap_or(line)
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_fits_every_scale() {
        for (weight, of_bfq) in [
            (1, 1),
            (100, 100),
            (111, 101),
            (5_050, 550),
            (10_000, 1_000),
        ] {
            assert_eq!(scaled(weight, 1_000), of_bfq, "{weight}");
            assert_eq!(scaled(weight, LARGEST), weight);
        }
    }

    #[test]
    fn weight_is_read_in_both_forms() {
        assert_eq!(parse("100\n"), Some(100));
        assert_eq!(parse("default 250\n8:0 100\n"), Some(250));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn weight_that_was_changed_meanwhile_is_a_mismatch() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("io.weight"), "default 100\n").unwrap();
        assert_eq!(read_back(dir.path(), None).unwrap(), Some(100));
        set(dir.path(), 300).unwrap();
        assert_eq!(read_back(dir.path(), Some(300)).unwrap(), Some(300));
        assert!(matches!(
            read_back(dir.path(), Some(200)),
            Err(CgroupError::ReadBack { .. })
        ));
    }

    #[test]
    fn weight_that_is_demanded_and_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_back(dir.path(), None).unwrap(), None);
        assert!(matches!(set(dir.path(), 50), Err(CgroupError::NoIoWeight)));
        assert!(matches!(
            read_back(dir.path(), Some(50)),
            Err(CgroupError::NoIoWeight)
        ));
    }
}
