//! The words every floor shares: who a worker is.

#![forbid(unsafe_code)]

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// A worker's seat in its app (0, 1, 2 ...). It outlives the process that sits in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Slot(pub(crate) u16);

/// One process in a slot. Counts up over all slots of an app and is never used twice while
/// a runtime directory lives, so that socket paths and tags are never mistaken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Incarnation(pub(crate) u32);

/// Deploy number of an app, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Generation(pub(crate) u32);

/// Names one worker process in the whole proxy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkerId {
    pub(crate) app: Arc<str>,
    pub(crate) slot: Slot,
    pub(crate) incarnation: Incarnation,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}] #{}", self.app, self.slot, self.incarnation)
    }
}

/// The mark of a worker at the end of every session id it hands out.
///
/// Three characters of `A-Z a-z 0-9 _ -`: they replace the last three of the four characters
/// that Engine.IO's base64id fills from a counter, so the random part stays whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tag([u8; Tag::LEN]);

impl Tag {
    pub(crate) const LEN: usize = 3;
    /// How many different tags there are.
    pub(crate) const COUNT: u32 = 64 * 64 * 64;
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    /// The `n`th tag, modulo [`Tag::COUNT`].
    pub(crate) fn nth(n: u32) -> Tag {
        let at = |shift: u32| Self::ALPHABET[(n >> shift) as usize % 64];
        Tag([at(12), at(6), at(0)])
    }

    /// The tag a sid ends with, or `None` when the sid is too short to carry one.
    pub(crate) fn of_sid(sid: &[u8]) -> Option<Tag> {
        sid.last_chunk().copied().map(Tag)
    }

    /// Reads a tag that another process wrote down.
    pub(crate) fn parse(text: &str) -> Option<Tag> {
        let bytes: [u8; Self::LEN] = text.as_bytes().try_into().ok()?;
        bytes.iter().all(|b| Self::ALPHABET.contains(b)).then_some(Tag(bytes))
    }

    pub(crate) fn as_str(&self) -> &str {
        // Every constructor but `of_sid` yields ASCII; `of_sid` is only compared, and shown lossily.
        std::str::from_utf8(&self.0).unwrap_or("???")
    }
}

impl Serialize for Tag {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.as_str().serialize(to)
    }
}

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Tag, D::Error> {
        let text = String::deserialize(from)?;
        Tag::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no tag")))
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// A number of things for people: "1 worker", "2 workers".
pub(crate) fn counted(count: impl TryInto<u64>, one: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {one}"),
        count => format!("{count} {one}s"),
    }
}

/// The same with its verb: "1 worker is", "2 workers are".
pub(crate) fn counted_being(count: u64, one: &str) -> String {
    format!("{} {}", counted(count, one), if count == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_distinct_and_read_back() {
        let mut seen = std::collections::HashSet::new();
        for n in 0..Tag::COUNT {
            let tag = Tag::nth(n);
            assert!(seen.insert(tag), "tag {n} repeats");
            assert_eq!(Tag::parse(tag.as_str()), Some(tag));
        }
        assert_eq!(Tag::nth(Tag::COUNT), Tag::nth(0));
    }

    #[test]
    fn a_sid_names_its_tag() {
        assert_eq!(Tag::of_sid(b"0123456789abcdefgXYZ"), Tag::parse("XYZ"));
        assert_eq!(Tag::of_sid(b"ab"), None);
        assert_eq!(Tag::parse("a b"), None);
        assert_eq!(Tag::parse("abcd"), None);
    }
}
