//! Where programs and files are looked for, and what else may have been meant.

use super::error::nearest;
use super::fields::Decoder;
use super::machine::Seen;
use std::path::{Path, PathBuf};

/// Looks for a program in the app's PATH, else the proxy's.
pub(super) fn find(d: &Decoder<'_>, program: &str, env: &[(String, String)]) -> Option<PathBuf> {
    let own = env.iter().find(|(name, _)| name == "PATH");
    let dirs = match own {
        Some((_, path)) => std::env::split_paths(path).filter(|dir| dir.is_absolute()).collect(),
        None => d.machine.path(),
    };
    let mut candidates = dirs.into_iter().map(|dir| dir.join(program));
    candidates.find(|path| d.machine.look(path, Seen::File { executable: true }) == Seen::File { executable: true })
}

/// Where a file was looked for, and what it may be called.
pub(super) fn file_hint(whole: &Path) -> String {
    match neighbour(whole) {
        Some(near) => format!("looked at {}; did you mean {near}?", whole.display()),
        None => format!("looked at {}; a script is looked for in cwd", whole.display()),
    }
}

/// The most similar name in the same directory.
fn neighbour(path: &Path) -> Option<String> {
    /// A directory may be large; the first entries are enough for a hint.
    const MOST: usize = 500;
    let name = path.file_name()?.to_str()?;
    let entries = std::fs::read_dir(path.parent()?).ok()?.take(MOST);
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
}
