//! `pawctl sandbox image`: the words of the command line.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Add an image: an OCI image layout, or a directory that is a root
    ///
    /// An OCI image layout is a directory with a file `oci-layout` in it, or an uncompressed archive of one; its layers may be packed
    /// with gzip or zstd, and every digest is checked. Any other directory is taken as the root itself. What comes in belongs
    /// to nobody any more: modes become 0755 or 0644, set-uid bits, owners and extended attributes are dropped, devices, pipes
    /// and sockets are left out.
    Add {
        /// The layout or directory
        path: PathBuf,
        /// What to call it [default: the name of the path]
        #[arg(long)]
        name: Option<String>,
    },
    /// List images
    List,
    /// Remove an image that was added
    Remove {
        /// Its name
        name: String,
    },
}
