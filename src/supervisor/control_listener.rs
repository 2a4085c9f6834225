//! Where workers dial in.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::task::JoinHandle;

/// The control socket, served.
pub(super) struct ControlDoor {
    pub(super) serving: JoinHandle<()>,
    pub(super) path: PathBuf,
    /// While it is served no other file has the same.
    pub(super) file: Option<(u64, u64)>,
}

impl ControlDoor {
    /// Whether who dials in comes here, and not to another process that has bound over it.
    pub(super) fn is_in_place(&self) -> bool {
        self.file.is_some() && number(&self.path) == self.file
    }
}

pub(super) fn number(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}
