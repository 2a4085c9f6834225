//! What is wrong in a configuration: where, what, and what to write instead.

use std::fmt;
use std::path::{Path, PathBuf};

/// A place in a file; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

/// A mistake that keeps the proxy from starting. Shown as `file:line:column: message; hint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The file as it was named, or `command line`.
    pub file: PathBuf,
    /// `None` when the file as a whole is meant.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

/// Something that works, but maybe not as it was meant. Shown like an [`Error`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub Error);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(place) = self.place {
            write!(f, "{place}:")?;
        }
        write!(f, " {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Collects what is found in one configuration, so that one run reports everything.
#[derive(Debug)]
pub(super) struct Findings {
    file: PathBuf,
    errors: Vec<Error>,
    warnings: Vec<Warning>,
}

impl Findings {
    /// How many of each are kept: a file of 100,000 mistakes is not told apart from one of 200.
    const MOST: usize = 200;

    pub(super) fn new(file: &Path) -> Findings {
        Findings { file: file.to_owned(), errors: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn error(&mut self, place: Option<Place>, message: impl Into<String>, hint: impl IntoHint) {
        if self.errors.len() < Self::MOST {
            self.errors.push(self.found(place, message.into(), hint.into_hint()));
        }
    }

    pub(super) fn warn(&mut self, place: Option<Place>, message: impl Into<String>, hint: impl IntoHint) {
        if self.warnings.len() < Self::MOST {
            self.warnings.push(Warning(self.found(place, message.into(), hint.into_hint())));
        }
    }

    /// Whether more errors would be dropped: then nothing costly need be done for them.
    pub(super) fn is_full(&self) -> bool {
        self.errors.len() >= Self::MOST
    }

    /// How many errors were found so far.
    pub(super) fn count(&self) -> usize {
        self.errors.len()
    }

    /// `value` with the warnings, or the errors, sorted by place. What an alias repeats is told once.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<(T, Vec<Warning>), Vec<Error>> {
        self.errors.sort_by_key(|error| error.place);
        self.errors.dedup();
        self.warnings.sort_by_key(|warning| warning.0.place);
        self.warnings.dedup();
        match value {
            Some(value) if self.errors.is_empty() => Ok((value, self.warnings)),
            _ => {
                if self.errors.is_empty() {
                    self.error(None, "the configuration cannot be used", None::<String>);
                }
                Err(self.errors)
            }
        }
    }

    fn found(&self, place: Option<Place>, message: String, hint: Option<String>) -> Error {
        Error { file: self.file.clone(), place, message, hint }
    }
}

/// A hint, or none: lets callers pass `""`, text or an option.
pub(super) trait IntoHint {
    fn into_hint(self) -> Option<String>;
}

impl IntoHint for &str {
    fn into_hint(self) -> Option<String> {
        (!self.is_empty()).then(|| self.to_owned())
    }
}

impl IntoHint for String {
    fn into_hint(self) -> Option<String> {
        (!self.is_empty()).then_some(self)
    }
}

impl IntoHint for Option<String> {
    fn into_hint(self) -> Option<String> {
        self.filter(|hint| !hint.is_empty())
    }
}

/// `text` in quotes, shortened and with control characters escaped, so that an error stays one short line.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let mut short: String = text.chars().take(MOST).flat_map(|c| c.escape_debug()).collect();
    // `escape_debug` also escapes quotes, which are harmless here.
    short = short.replace("\\\"", "\"").replace("\\'", "'");
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    format!("\"{short}\"")
}

/// The name nearest to `word`, when it is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace(['-', '.', ' '], "_");
    // Only short words are compared: the cost grows with the product of the lengths.
    let word = plain(word);
    if word.len() > 64 {
        return None;
    }
    let far = (word.chars().count() / 3).clamp(1, 3);
    names
        .into_iter()
        .map(|name| (strsim::osa_distance(&word, &plain(name)), name))
        .filter(|(distance, _)| *distance <= far)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
