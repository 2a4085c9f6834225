//! A small decoder over the tree: it goes on after a mistake, so that one run reports them all.

use super::error::{Findings, Place, nearest, shown};
use super::machine::Machine;
use super::schema::{ALL, Instead, Section};
use super::yaml::{Entry, Kind, Node, Scalar, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What all decoders share.
pub(super) struct Decoder<'m> {
    pub(super) found: Findings,
    pub(super) machine: &'m dyn Machine,
    /// Absolute; relative paths of the configuration begin here.
    pub(super) base: PathBuf,
}

/// A value and the key that leads to it, as messages call it: `apps.chat.script`.
#[derive(Clone, Debug)]
pub(super) struct Field<'n> {
    pub(super) path: String,
    pub(super) key_at: Option<Place>,
    pub(super) node: &'n Node,
}

/// The entries of a map whose keys are known.
#[derive(Debug)]
pub(super) struct Fields<'n> {
    pub(super) path: String,
    pub(super) at: Option<Place>,
    pub(super) section: &'static Section,
    entries: HashMap<&'static str, &'n Entry>,
    /// What unknown keys were probably meant to be.
    meant: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// Whether a key is there in a misspelt form: then its absence need not be reported too.
    pub(super) fn misspelt(&self, name: &str) -> bool {
        self.meant.contains(&name)
    }

    /// The field of this name, when it is there.
    pub(super) fn get(&self, name: &'static str) -> Option<Field<'n>> {
        debug_assert!(self.section.names().any(|known| known == name), "{name} is not in the table");
        let entry = self.entries.get(name)?;
        Some(Field { path: join(&self.path, name), key_at: entry.key_at, node: &entry.node })
    }

    /// Like `get`, but a key with nothing behind it counts as left out: right for lists and maps.
    pub(super) fn filled(&self, name: &'static str) -> Option<Field<'n>> {
        self.get(name).filter(|field| field.node.value != Value::Null)
    }
}

impl<'n> Field<'n> {
    pub(super) fn at(&self) -> Option<Place> {
        self.node.at
    }

    pub(super) fn scalar(&self) -> Option<&'n Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// Text, and not a number or a truth value.
    pub(super) fn text(&self) -> Option<&'n str> {
        self.scalar().filter(|scalar| scalar.kind == Kind::Text).map(|scalar| scalar.text.as_str())
    }

    /// The value as a message shows it.
    pub(super) fn shown(&self) -> String {
        match &self.node.value {
            Value::Null | Value::Broken => "nothing".into(),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
            Value::Scalar(Scalar { text, kind: Kind::Text, .. }) => shown(text),
            Value::Scalar(Scalar { text, .. }) => shown(text).trim_matches('"').to_owned(),
        }
    }

    pub(super) fn items(&self) -> Option<Vec<Field<'n>>> {
        match &self.node.value {
            Value::List(items) => {
                let field =
                    |(i, node): (usize, &'n Node)| Field { path: format!("{}[{i}]", self.path), key_at: node.at, node };
                Some(items.iter().enumerate().map(field).collect())
            }
            _ => None,
        }
    }
}

impl Decoder<'_> {
    /// The fields of a map with known keys. Unknown and repeated keys are reported.
    pub(super) fn fields<'n>(&mut self, field: &Field<'n>, section: &'static Section) -> Option<Fields<'n>> {
        let Value::Map(all) = &field.node.value else {
            let example = section.names().next().unwrap_or("key");
            self.wrong(field, "a map", &format!("write keys below it, as in {example}: ..."));
            return None;
        };
        let mut entries: HashMap<&'static str, &'n Entry> = HashMap::new();
        let mut meant = Vec::new();
        for entry in all {
            match section.names().find(|name| *name == entry.key) {
                None => {
                    self.unknown(&field.path, section, entry);
                    if !self.found.is_full() {
                        meant.extend(nearest(&entry.key, section.names()));
                    }
                }
                Some(name) => match entries.get(name) {
                    Some(first) => self.repeated(&join(&field.path, name), entry, first),
                    None => {
                        entries.insert(name, entry);
                    }
                },
            }
        }
        Some(Fields { path: field.path.clone(), at: field.key_at, section, entries, meant })
    }

    /// The entries of a map whose keys the user names. Repeated keys are reported.
    pub(super) fn named<'n>(&mut self, field: &Field<'n>) -> Option<Vec<(&'n Entry, Field<'n>)>> {
        let Value::Map(all) = &field.node.value else { return None };
        let mut first: HashMap<&str, &Entry> = HashMap::new();
        let mut named = Vec::new();
        for entry in all {
            let path = join(&field.path, &entry.key);
            match first.get(entry.key.as_str()) {
                Some(first) => self.repeated(&path, entry, first),
                None => {
                    first.insert(&entry.key, entry);
                    named.push((entry, Field { path, key_at: entry.key_at, node: &entry.node }));
                }
            }
        }
        Some(named)
    }

    fn repeated(&mut self, path: &str, entry: &Entry, first: &Entry) {
        let line = first.key_at.map_or(0, |at| at.line);
        self.found.error(
            entry.key_at,
            format!("{path} is written twice"),
            format!("remove one; the first is on line {line}"),
        );
    }

    fn unknown(&mut self, path: &str, section: &'static Section, entry: &Entry) {
        if self.found.is_full() {
            return;
        }
        let key = shown(&entry.key);
        let message = match path {
            "" => format!("unknown key {key}"),
            path => format!("unknown key {key} in {path}"),
        };
        let hint = match section.instead(&snake_case(&entry.key)) {
            Some(Instead::Later) => {
                return self.found.error(
                    entry.key_at,
                    format!("{} is not supported yet", join(path, &entry.key)),
                    "remove it",
                );
            }
            Some(Instead::Useless(why)) => {
                let message = format!("{} has no use here", join(path, &entry.key));
                return self.found.error(entry.key_at, message, format!("remove it: {why}"));
            }
            Some(Instead::Write(what)) => what.to_owned(),
            None => match (nearest(&entry.key, section.names()), home(&entry.key)) {
                (_, Some(home)) => format!("it belongs under {home}"),
                (Some(name), _) => format!("did you mean \"{name}\"?"),
                (None, None) => known(section),
            },
        };
        self.found.error(entry.key_at, message, hint);
    }

    /// Reports that a value is not what its key takes.
    pub(super) fn wrong(&mut self, field: &Field<'_>, expected: &str, hint: &str) {
        let message = match &field.node.value {
            Value::Broken => return,
            Value::Null => format!("{} has no value", field.path),
            _ => format!("{} must be {expected}, not {}", field.path, field.shown()),
        };
        let hint = match (placeholder(field.node), &field.node.value) {
            (Some(name), _) => format!("put it in quotes: \"{{{name}}}\""),
            (None, Value::Null) if hint.is_empty() => "write a value, or leave the key out".into(),
            _ => hint.to_owned(),
        };
        self.found.error(field.at(), message, hint);
    }

    /// Text, or a number or truth value as it was written.
    pub(super) fn word(&mut self, field: &Field<'_>) -> Option<String> {
        let Some(scalar) = field.scalar() else {
            self.wrong(field, "text", "");
            return None;
        };
        if scalar.text.contains('\0') {
            self.found.error(field.at(), format!("{} contains a NUL character", field.path), "no program takes one");
            return None;
        }
        Some(scalar.text.clone())
    }

    /// A path, made absolute.
    pub(super) fn file(&mut self, field: &Field<'_>) -> Option<PathBuf> {
        let text = self.word(field)?;
        if text.is_empty() {
            self.found.error(field.at(), format!("{} is empty", field.path), "write a path, or leave the key out");
            return None;
        }
        if text.starts_with('~') {
            let message = format!("{}: \"~\" is not expanded", field.path);
            self.found.error(field.at(), message, "write ${HOME}/... or the whole path");
            return None;
        }
        Some(tidy(&self.base.join(text)))
    }
}

/// Without `.` and doubled slashes; `..` stays, since it may go through a link.
pub(super) fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
}

pub(super) fn join(path: &str, name: &str) -> String {
    let simple = name.len() <= 64 && name.bytes().all(|b| b.is_ascii_graphic() && b != b'.');
    let name = if simple { name.to_owned() } else { shown(name) };
    match path {
        "" => name,
        path => format!("{path}.{name}"),
    }
}

/// `{socket}` without quotes is a map to YAML.
fn placeholder(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Map(entries) => match entries.as_slice() {
            [only] if only.node.value == Value::Null => Some(&only.key),
            _ => None,
        },
        _ => None,
    }
}

/// The map that a key belongs to, when it is known elsewhere only.
fn home(word: &str) -> Option<&'static str> {
    if matches!(word, "min" | "max" | "limit") {
        return None;
    }
    let section = ALL.iter().find(|section| section.names().any(|name| name == word))?;
    Some(match section.name {
        "" => "nothing: write it at the left margin",
        name => name,
    })
}

fn known(section: &Section) -> String {
    let names: Vec<&str> = section.names().collect();
    match names.as_slice() {
        [only] => format!("the only key is {only}"),
        names if names.len() <= 8 => format!("the keys are {}", names.join(", ")),
        names => format!("the keys begin with {}; docs/configuration.md has all", names[..3].join(", ")),
    }
}

fn snake_case(word: &str) -> String {
    let mut out = String::new();
    for c in word.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
