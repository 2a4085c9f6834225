//! What the tables consist of.

/// The keys of one map of the file.
#[derive(Debug)]
pub(in crate::config) struct Section {
    /// How messages call it; empty for the file itself.
    pub(in crate::config) name: &'static str,
    pub(in crate::config) keys: &'static [Key],
    /// Words that people know from elsewhere, and what to do instead.
    pub(in crate::config) elsewhere: &'static [(&'static str, Instead)],
}

/// A key and the value it has when it is left out, as docs/configuration.md shows it.
#[derive(Debug)]
pub(in crate::config) struct Key {
    pub(in crate::config) name: &'static str,
    pub(in crate::config) kind: Kind,
    #[cfg_attr(not(test), allow(dead_code))] // tests hold the documentation to it
    pub(in crate::config) default: Preset,
}

/// What a key takes, with its bounds.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) enum Kind {
    Flag,
    /// Least, most, and words that may stand instead.
    Integer(u64, u64, &'static str),
    /// Least and most, in milliseconds.
    Duration(u64, u64),
    /// The same, or `none`.
    DurationOrNone(u64, u64),
    /// Least and most, in bytes, and words that may stand instead.
    Size(u64, u64, &'static str),
    List,
    Map,
    /// In words; its rules stand with its decoder.
    #[cfg_attr(not(test), allow(dead_code))]
    Other(&'static str),
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), allow(dead_code))]
pub(in crate::config) enum Preset {
    /// This YAML value, written out, changes nothing.
    Yaml(&'static str),
    /// Words: the default is not one fixed value.
    Words(&'static str),
    /// The key must be there.
    Required,
}

#[derive(Clone, Copy, Debug)]
pub(in crate::config) enum Instead {
    /// Another key (or value) does this; the sentence says how.
    Write(&'static str),
    /// Planned.
    Later,
    /// Has no use here; the sentence says why.
    Useless(&'static str),
}

pub(super) const fn key(name: &'static str, kind: Kind, default: Preset) -> Key {
    Key { name, kind, default }
}

impl Section {
    pub(in crate::config) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }

    /// The kind of a key; only called with names that are in the table.
    pub(in crate::config) fn kind(&self, name: &str) -> Kind {
        let key = self.keys.iter().find(|key| key.name == name);
        debug_assert!(key.is_some(), "{name} is not in the table of {}", self.name);
        key.map_or(Kind::Other("value"), |key| key.kind)
    }

    pub(in crate::config) fn instead(&self, word: &str) -> Option<Instead> {
        self.elsewhere.iter().find(|(name, _)| *name == word).map(|(_, instead)| *instead)
    }
}
