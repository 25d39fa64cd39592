//! Whether what is mounted as a workspace is an overlay of exactly the layers that were made for this run.

use std::path::Path;

use super::{AttestError, Mounted, mismatch};
use crate::ceilings::Approved;

/// Compares the overlay behind the workspace of a plan, if it has one, with its layers.
pub(super) fn check(mounts: &[Mounted], plan: &Approved) -> Result<(), AttestError> {
    let Some(overlay) = &plan.overlay else {
        return Ok(());
    };
    for target in plan
        .mounts
        .iter()
        .filter(|mount| mount.workspace.is_some())
        .map(|mount| &mount.target)
    {
        let Some(mounted) = mounts
            .iter()
            .rfind(|mount| Path::new(&mount.target) == target)
        else {
            // Mounted in a temporary file system that the host does not see; check_bound compares what it sees.
            continue;
        };
        let what = |name: &str| format!("the {name} layer of {}", target.display());
        if mounted.kind != "overlay" {
            return Err(mismatch(what("upper"), mounted.kind.clone(), "overlay"));
        }
        for (name, path) in [
            ("lower", &overlay.lower),
            ("upper", &overlay.upper),
            ("work", &overlay.work),
        ] {
            let option = format!("{name}dir=");
            let is = mounted
                .super_options
                .split(',')
                .find_map(|text| text.strip_prefix(option.as_str()))
                .unwrap_or("none");
            let wanted = escaped(path);
            if is != wanted {
                return Err(mismatch(what(name), is, wanted));
            }
        }
    }
    Ok(())
}

/// A path as the kernel writes it among the options of a mount.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for character in path.to_string_lossy().chars() {
        match character {
            ' ' => text.push_str("\\040"),
            '\t' => text.push_str("\\011"),
            '\n' => text.push_str("\\012"),
            '\\' => text.push_str("\\134"),
            other => text.push(other),
        }
    }
    text
}
