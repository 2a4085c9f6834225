//! YAML with places: the data as serde_yaml reads it, each node with its line and column.

mod data;
mod places;

use super::error::Place;
use data::Data;
use places::{Shape, Spot};
use std::collections::HashSet;
use std::rc::Rc;

/// A value and where it stands; `at` is `None` for values that come from the command line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) at: Option<Place>,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Nothing stands after the key, or `null` or `~`.
    Null,
    /// Already reported: nothing more is said about it.
    Broken,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One value, with the text it was written as.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) kind: Kind,
    /// Written without quotes.
    pub(super) plain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bool(bool),
    Int(i128),
    /// A number that is not an integer.
    Float,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: Option<Place>,
    pub(super) node: Node,
}

/// Why a text is not YAML that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) at: Option<Place>,
    pub(super) message: String,
    pub(super) hint: String,
}

impl Problem {
    fn new(at: Place, message: impl Into<String>, hint: impl Into<String>) -> Problem {
        Problem { at: Some(at), message: message.into(), hint: hint.into() }
    }
}

/// Reads one document. Bounded: depth, number of values and what aliases expand to have limits.
pub(super) fn read(text: &str) -> Result<Node, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    refuse_control_characters(text)?;
    let spot = places::read(text)?;
    let data = match spot {
        // serde_yaml calls an empty text an error.
        None => Data::Null,
        Some(_) => serde_yaml::from_str(text).map_err(|error| unreadable(&error))?,
    };
    let mut problem = None;
    let node = join(data, spot.as_deref(), Place { line: 1, column: 1 }, &mut problem);
    match problem {
        None => Ok(node),
        Some(problem) => Err(problem),
    }
}

/// Refuses what is no text, and what only one of the two parsers takes for the end of a line (YAML 1.1 and 1.2
/// differ there): to them the same file could be two.
fn refuse_control_characters(text: &str) -> Result<(), Problem> {
    let bad = |c: char| (c.is_control() && !matches!(c, '\t' | '\n' | '\r')) || matches!(c, '\u{2028}' | '\u{2029}');
    let mut line = 1;
    let mut column = 1;
    for c in text.chars() {
        if bad(c) {
            let message = format!("control character U+{:04X}", u32::from(c));
            return Err(Problem::new(Place { line, column }, message, "remove it; is this a text file?"));
        }
        column += 1;
        if c == '\n' {
            line += 1;
            column = 1;
        }
    }
    Ok(())
}

fn unreadable(error: &serde_yaml::Error) -> Problem {
    let at = error.location().map(|at| Place { line: at.line(), column: at.column() });
    let text = error.to_string();
    // It ends in the location, which stands in front already.
    let message = text.split(" at line ").next().unwrap_or_default();
    Problem {
        at,
        message: format!("not valid YAML: {message}"),
        hint: "check the indentation, the quotes and the brackets".into(),
    }
}

/// Puts data and places together. The two parsers agree on shapes; where they should not, the place of
/// the parent is near enough.
fn join(data: Data, spot: Option<&Spot>, near: Place, problem: &mut Option<Problem>) -> Node {
    let at = spot.map_or(near, |spot| spot.at);
    let value = match data {
        Data::Null => Value::Null,
        Data::Bool(value) => scalar(value.to_string(), Kind::Bool(value), spot),
        Data::Int(value) => scalar(value.to_string(), Kind::Int(value), spot),
        Data::Float => scalar("a number".into(), Kind::Float, spot),
        Data::Text(text) => {
            let plain = matches!(spot.map(|spot| &spot.shape), Some(Shape::Scalar { plain: true, .. }));
            Value::Scalar(Scalar { text, kind: Kind::Text, plain })
        }
        Data::List(items) => {
            let spots: &[Rc<Spot>] = match spot.map(|spot| &spot.shape) {
                Some(Shape::List(spots)) => spots,
                _ => &[],
            };
            let node = |(i, item)| join(item, spots.get(i).map(Rc::as_ref), at, problem);
            Value::List(items.into_iter().enumerate().map(node).collect())
        }
        Data::Map(entries) => {
            let spots: &[(Rc<Spot>, Rc<Spot>)] = match spot.map(|spot| &spot.shape) {
                Some(Shape::Map(spots)) => spots,
                _ => &[],
            };
            let mut joined = Vec::with_capacity(entries.len());
            let mut merged = Vec::new();
            for (i, (key, value)) in entries.into_iter().enumerate() {
                let (key_spot, value_spot) = spots.get(i).map(|(k, v)| (k.as_ref(), v.as_ref())).unzip();
                let key_at = key_spot.map_or(at, |spot| spot.at);
                let node = join(value, value_spot, key_at, problem);
                match key_text(key, key_spot) {
                    Some(key) if key == "<<" => merged.push((key_at, node)),
                    Some(key) => joined.push(Entry { key, key_at: Some(key_at), node }),
                    None => {
                        problem.get_or_insert(Problem::new(
                            key_at,
                            "a key must be a word",
                            "put a key with special characters in quotes",
                        ));
                    }
                }
            }
            if !merged.is_empty() {
                let mut known = joined.iter().map(|entry| entry.key.clone()).collect();
                for (key_at, node) in merged {
                    merge(&mut joined, &mut known, key_at, node, problem);
                }
            }
            Value::Map(joined)
        }
    };
    Node { at: Some(at), value }
}

fn scalar(read: String, kind: Kind, spot: Option<&Spot>) -> Value {
    let text = match spot.map(|spot| &spot.shape) {
        Some(Shape::Scalar { text, .. }) => text.clone(),
        _ => read,
    };
    Value::Scalar(Scalar { text, kind, plain: true })
}

fn key_text(key: Data, spot: Option<&Spot>) -> Option<String> {
    match (key, spot.map(|spot| &spot.shape)) {
        (Data::Text(text), _) => Some(text),
        // `8000:` or `true:` as keys are the words as written.
        (Data::Bool(_) | Data::Int(_) | Data::Float, Some(Shape::Scalar { text, .. })) => Some(text.clone()),
        _ => None,
    }
}

/// `<<`: what the map does not say itself comes from another map, or from the first of several.
fn merge(entries: &mut Vec<Entry>, known: &mut HashSet<String>, at: Place, node: Node, problem: &mut Option<Problem>) {
    match node.value {
        Value::Map(others) => {
            for other in others {
                if known.insert(other.key.clone()) {
                    entries.push(other);
                }
            }
        }
        Value::List(nodes) if nodes.iter().all(|node| matches!(node.value, Value::Map(_))) => {
            for node in nodes {
                merge(entries, known, at, node, problem);
            }
        }
        _ => {
            let message = "\"<<\" needs a map, or a list of maps";
            problem.get_or_insert(Problem::new(at, message, "write it as \"<<: *anchor\""));
        }
    }
}
