//! What tells one file from another that stands in its place.

use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Of a regular file. Not the time of its last change of owner, mode or links (ctime): a backup by hard links or a
/// `chown` at each deploy would count as new code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fact {
    device: u64,
    inode: u64,
    /// Nanoseconds since the Unix epoch.
    pub(super) modified: i64,
    size: u64,
}

impl Fact {
    /// Links are followed; `None` where there is no file.
    pub(super) fn of(path: &Path) -> Option<Fact> {
        std::fs::metadata(path).ok().filter(Metadata::is_file).map(|meta| Fact::from(&meta))
    }

    /// As bytes, for a digest.
    pub(super) fn numbers(&self) -> [u64; 4] {
        [self.device, self.inode, self.modified.cast_unsigned(), self.size]
    }
}

impl From<&Metadata> for Fact {
    fn from(meta: &Metadata) -> Fact {
        let modified = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
        Fact { device: meta.dev(), inode: meta.ino(), modified, size: meta.size() }
    }
}
