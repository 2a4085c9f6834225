//! `${NAME}` and `${NAME:-default}` from the environment, in values; `$${` is a plain `${`.

use super::error::{Findings, shown};
use super::machine::Machine;
use super::yaml::{Kind, Node, Scalar, Value};

/// Longest value after expansion, in bytes: Linux takes no longer argument or environment entry.
const LONGEST: usize = 128 * 1024;
/// What all expansions of a file may add up to, in bytes.
const TOTAL: usize = 4 * 1024 * 1024;

/// Expands every value of the tree in place. What goes wrong is reported, and the value is marked as broken.
pub(super) fn expand(node: &mut Node, machine: &dyn Machine, found: &mut Findings) {
    Expander { machine, found, left: TOTAL }.node(node);
}

struct Expander<'a> {
    machine: &'a dyn Machine,
    found: &'a mut Findings,
    left: usize,
}

impl Expander<'_> {
    fn node(&mut self, node: &mut Node) {
        match &mut node.value {
            Value::Null | Value::Broken => {}
            Value::List(items) => items.iter_mut().for_each(|item| self.node(item)),
            Value::Map(entries) => entries.iter_mut().for_each(|entry| self.node(&mut entry.node)),
            Value::Scalar(scalar) if scalar.text.contains("${") => match self.text(&scalar.text) {
                Ok(text) => *scalar = retyped(text, scalar.plain),
                Err((message, hint)) => {
                    self.found.error(node.at, message, hint);
                    node.value = Value::Broken;
                }
            },
            Value::Scalar(_) => {}
        }
    }

    fn text(&mut self, text: &str) -> Result<String, (String, String)> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                // `$${`: one dollar goes, the brace stays.
                out.push_str(&rest[..at]);
                out.push('{');
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let Some((inside, after)) = rest[at + 2..].split_once('}') else {
                return Err((format!("no \"}}\" after \"${{\" in {}", shown(text)), "write $${ for a plain ${".into()));
            };
            out.push_str(&self.variable(inside)?);
            rest = after;
            if out.len() > LONGEST {
                return Err((format!("longer than {LONGEST} bytes after expansion of ${{...}}"), String::new()));
            }
        }
        out.push_str(rest);
        self.left = self.left.checked_sub(out.len()).ok_or_else(|| {
            (format!("all expansions of ${{...}} together are longer than {TOTAL} bytes"), String::new())
        })?;
        Ok(out)
    }

    fn variable(&self, inside: &str) -> Result<String, (String, String)> {
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !first || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let message = format!("\"${{{}}}\" is not the name of a variable", inside.escape_debug());
            return Err((message, "write ${NAME} or ${NAME:-default}; $${ is a plain ${".into()));
        }
        match (self.machine.var(name).map(|value| value.into_string()), default) {
            (Some(Err(_)), _) => {
                Err((format!("the value of the environment variable {name} is not UTF-8"), String::new()))
            }
            // As in a shell, `:-` also stands in for an empty value.
            (Some(Ok(value)), Some(default)) if value.is_empty() => Ok(default.to_owned()),
            (Some(Ok(value)), _) => Ok(value),
            (None, Some(default)) => Ok(default.to_owned()),
            (None, None) => Err((
                format!("the environment variable {name} is not set"),
                format!("set it, or write a default: ${{{name}:-value}}"),
            )),
        }
    }
}

/// What was written without quotes may be a number or a truth value once it is expanded. It never becomes
/// a list or a map.
fn retyped(text: String, plain: bool) -> Scalar {
    let kind = match text.as_str() {
        "true" if plain => Kind::Bool(true),
        "false" if plain => Kind::Bool(false),
        number if plain => number.parse().map_or(Kind::Text, Kind::Int),
        _ => Kind::Text,
    };
    Scalar { text, kind, plain }
}
