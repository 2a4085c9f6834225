//! Where every node of a YAML text stands, from the parser's events.

use super::Problem;
use crate::config::error::Place;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};
use std::collections::HashMap;
use std::rc::Rc;

/// Deepest nesting that a configuration needs, with room.
const DEPTH: usize = 32;
/// Most nodes, with aliases expanded.
const NODES: usize = 100_000;

/// The place and shape of a node; the tree has the same shape as the data.
#[derive(Debug)]
pub(super) struct Spot {
    pub(super) at: Place,
    pub(super) shape: Shape,
    /// Nodes in it, itself included.
    size: usize,
    /// Levels in it, itself included.
    depth: usize,
}

#[derive(Debug)]
pub(super) enum Shape {
    Scalar {
        /// As written, without quotes and escapes.
        text: String,
        /// Written without quotes, so that it may be a number.
        plain: bool,
    },
    List(Vec<Rc<Spot>>),
    /// Keys and values in the order of the text.
    Map(Vec<(Rc<Spot>, Rc<Spot>)>),
}

enum Open {
    List { at: Place, anchor: usize, items: Vec<Rc<Spot>> },
    Map { at: Place, anchor: usize, entries: Vec<(Rc<Spot>, Rc<Spot>)>, key: Option<Rc<Spot>> },
}

/// Reads the first document; `None` for an empty one.
pub(super) fn read(text: &str) -> Result<Option<Rc<Spot>>, Problem> {
    let mut build = Builder::default();
    let mut parser = Parser::new_from_str(text);
    let mut documents = 0;
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| syntax(text, error.marker(), error.info()))?;
        let at = place(&span);
        match event {
            Event::DocumentStart(_) => documents += 1,
            _ if documents > 1 => {}
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(at, tag.is_some())?;
                let shape = Shape::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                build.node(at, anchor, shape)?;
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(at, tag.is_some())?;
                build.open(Open::List { at, anchor, items: Vec::new() }, at)?;
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(at, tag.is_some())?;
                build.open(Open::Map { at, anchor, entries: Vec::new(), key: None }, at)?;
            }
            Event::SequenceEnd | Event::MappingEnd => build.close()?,
            Event::Alias(anchor) => build.alias(at, anchor)?,
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd | Event::Nothing => {}
        }
        if documents > 1 {
            return Err(Problem::new(
                at,
                "a second document begins here",
                "put everything into one: remove the \"---\"",
            ));
        }
    }
    Ok(build.root)
}

#[derive(Default)]
struct Builder {
    stack: Vec<Open>,
    anchors: HashMap<usize, Rc<Spot>>,
    root: Option<Rc<Spot>>,
    nodes: usize,
}

impl Builder {
    fn open(&mut self, open: Open, at: Place) -> Result<(), Problem> {
        self.deepen(at, 1)?;
        self.stack.push(open);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Problem> {
        match self.stack.pop() {
            Some(Open::List { at, anchor, items }) => self.node(at, anchor, Shape::List(items)),
            Some(Open::Map { at, anchor, entries, .. }) => self.node(at, anchor, Shape::Map(entries)),
            None => Ok(()),
        }
    }

    fn node(&mut self, at: Place, anchor: usize, shape: Shape) -> Result<(), Problem> {
        let (size, depth) = match &shape {
            Shape::Scalar { .. } => (1, 1),
            Shape::List(items) => measure(items.iter()),
            Shape::Map(entries) => measure(entries.iter().flat_map(|(key, value)| [key, value])),
        };
        let spot = Rc::new(Spot { at, shape, size, depth });
        if anchor > 0 {
            self.anchors.insert(anchor, spot.clone());
        }
        self.count(at, 1)?;
        self.put(spot);
        Ok(())
    }

    fn alias(&mut self, at: Place, anchor: usize) -> Result<(), Problem> {
        // Not there while the anchored node is still open: it would contain itself.
        let Some(spot) = self.anchors.get(&anchor).cloned() else {
            return Err(Problem::new(at, "this alias stands inside what it names", "write the value out"));
        };
        self.count(at, spot.size)?;
        self.deepen(at, spot.depth)?;
        self.put(spot);
        Ok(())
    }

    fn deepen(&self, at: Place, levels: usize) -> Result<(), Problem> {
        if self.stack.len() + levels > DEPTH {
            return Err(too_deep(at));
        }
        Ok(())
    }

    fn count(&mut self, at: Place, more: usize) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > NODES {
            return Err(Problem::new(at, format!("more than {NODES} values, with aliases written out"), ""));
        }
        Ok(())
    }

    fn put(&mut self, spot: Rc<Spot>) {
        match self.stack.last_mut() {
            None => self.root = Some(spot),
            Some(Open::List { items, .. }) => items.push(spot),
            Some(Open::Map { entries, key, .. }) => match key.take() {
                None => *key = Some(spot),
                Some(key) => entries.push((key, spot)),
            },
        }
    }
}

fn measure<'a>(spots: impl Iterator<Item = &'a Rc<Spot>>) -> (usize, usize) {
    let (size, depth) =
        spots.fold((0, 0), |(size, depth), spot| (spot.size.saturating_add(size), spot.depth.max(depth)));
    (size.saturating_add(1), depth + 1)
}

fn refuse_tag(at: Place, tagged: bool) -> Result<(), Problem> {
    match tagged {
        true => Err(Problem::new(
            at,
            "tags (!name) are not supported",
            "remove the tag; put text that looks like a number in quotes",
        )),
        false => Ok(()),
    }
}

fn place(span: &Span) -> Place {
    marked(&span.start)
}

fn marked(marker: &Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

fn too_deep(at: Place) -> Problem {
    Problem::new(at, format!("nested more than {DEPTH} deep"), "no key needs that")
}

fn syntax(text: &str, marker: &Marker, info: &str) -> Problem {
    let at = marked(marker);
    // The parser's own limit, when it looks far ahead.
    if info.contains("recursion limit") {
        return too_deep(at);
    }
    // The parser often notices a line late.
    let near = |line: usize| text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let lines = [near(at.line), near(at.line.saturating_sub(1))];
    let any = |found: fn(&str) -> bool| lines.iter().any(|line| found(line));
    let hint = if any(|line| line.trim_start_matches(' ').starts_with('\t')) {
        "indent with spaces, not with tabs"
    } else if any(|line| line.contains("${") && line.contains(['{', '['])) && info.contains("flow") {
        "inside {...} and [...] put values with ${...} in quotes"
    } else if info.contains("mapping values") || info.contains("':'") {
        "put values that contain \": \" in quotes, and check the indentation"
    } else {
        "check the indentation, the quotes and the brackets"
    };
    Problem::new(at, format!("not valid YAML: {info}"), hint)
}
