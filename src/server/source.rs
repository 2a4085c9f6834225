//! Where the configuration in force comes from. A reload may put another file in its place.

use crate::config::cli::Source;
use arc_swap::ArcSwap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Cheap to clone; all clones tell the same.
#[derive(Clone)]
pub(super) struct InForce(Arc<ArcSwap<Source>>);

impl InForce {
    pub(super) fn new(source: &Source) -> InForce {
        InForce(Arc::new(ArcSwap::from_pointee(absolute(source.clone()))))
    }

    pub(super) fn get(&self) -> Source {
        Source::clone(&self.0.load())
    }

    pub(super) fn set(&self, source: Source) {
        self.0.store(Arc::new(absolute(source)));
    }

    /// The file, if it is one.
    pub(super) fn file(&self) -> Option<PathBuf> {
        match &**self.0.load() {
            Source::File(file) => Some(file.clone()),
            Source::Command(_) => None,
        }
    }
}

/// The current directory may change.
fn absolute(source: Source) -> Source {
    match source {
        Source::File(file) => Source::File(std::path::absolute(&file).unwrap_or(file)),
        command => command,
    }
}

/// For people.
pub(super) fn name(source: &Source) -> String {
    match source {
        Source::File(file) => file.display().to_string(),
        Source::Command(_) => "command line".to_owned(),
    }
}

/// Whether this is the file of a source, by another path perhaps.
pub(super) fn is_same(source: &Source, file: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    matches!(source, Source::File(own) if own == file || real(own) == real(file))
}
