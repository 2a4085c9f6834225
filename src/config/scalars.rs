//! Numbers, truth values, durations, sizes and choices, within their bounds of the table.

use super::error::{nearest, shown};
use super::fields::{Decoder, Field, Fields};
use super::schema::Kind as Takes;
use super::yaml::{Kind, Value};
use std::time::Duration;

impl Decoder<'_> {
    /// `true` or `false`; `None` when absent or wrong.
    pub(super) fn flag(&mut self, fields: &Fields<'_>, name: &'static str) -> Option<bool> {
        let field = fields.get(name)?;
        match field.scalar().map(|scalar| (scalar.kind, scalar.text.to_lowercase())) {
            Some((Kind::Bool(value), _)) => Some(value),
            Some((_, word)) if matches!(word.as_str(), "true" | "false") => {
                self.wrong(&field, "true or false", "remove the quotes");
                None
            }
            Some((_, word)) if matches!(word.as_str(), "yes" | "on" | "1") => {
                self.wrong(&field, "true or false", "write true");
                None
            }
            Some((_, word)) if matches!(word.as_str(), "no" | "off" | "0") => {
                self.wrong(&field, "true or false", "write false");
                None
            }
            _ => {
                self.wrong(&field, "true or false", "write true or false without quotes");
                None
            }
        }
    }

    pub(super) fn integer(&mut self, fields: &Fields<'_>, name: &'static str) -> Option<u64> {
        let field = fields.get(name)?;
        self.number(&field, fields.section.kind(name))
    }

    /// An integer within the bounds of `takes`.
    pub(super) fn number(&mut self, field: &Field<'_>, takes: Takes) -> Option<u64> {
        let Takes::Integer(least, most, words) = takes else { return None };
        let expected = match words {
            "" if least == most => least.to_string(),
            "" => format!("a whole number from {least} to {most}"),
            words => format!("a whole number from {least} to {most}, or {words}"),
        };
        let value = match field.scalar().map(|scalar| (scalar.kind, scalar.text.as_str())) {
            Some((Kind::Int(value), _)) => value,
            Some((Kind::Text, text)) if text.trim().parse::<u64>().is_ok() => {
                self.wrong(field, &expected, "remove the quotes");
                return None;
            }
            _ => {
                self.wrong(field, &expected, &format!("write a number, as in {}", least.max(2.min(most))));
                return None;
            }
        };
        match u64::try_from(value).ok().filter(|value| (least..=most).contains(value)) {
            Some(value) => Some(value),
            None => {
                let hint = if value < i128::from(least) {
                    format!("the least is {least}")
                } else {
                    format!("the most is {most}")
                };
                self.wrong(field, &expected, &hint);
                None
            }
        }
    }

    pub(super) fn duration(&mut self, fields: &Fields<'_>, name: &'static str) -> Option<Duration> {
        let field = fields.get(name)?;
        let (Takes::Duration(least, most) | Takes::DurationOrNone(least, most)) = fields.section.kind(name) else {
            return None;
        };
        let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
        let value = match field.scalar() {
            Some(scalar) if scalar.kind == Kind::Text => match humantime::parse_duration(scalar.text.trim()) {
                Ok(value) => value,
                Err(_) if is_number(&scalar.text) => return self.no_unit(&field, &scalar.text),
                Err(_) => {
                    self.wrong(&field, "a duration", "write a number and a unit, as in 500ms, 30s, 2m or 1h");
                    return None;
                }
            },
            Some(scalar) if matches!(scalar.kind, Kind::Int(_) | Kind::Float) => {
                return self.no_unit(&field, &scalar.text);
            }
            _ => {
                self.wrong(&field, "a duration", "write a number and a unit, as in 500ms, 30s, 2m or 1h");
                return None;
            }
        };
        if (least..=most).contains(&value) {
            return Some(value);
        }
        let low = value < least;
        let [least, most] = [least, most].map(duration_text);
        let hint = if low { format!("the least is {least}") } else { format!("the most is {most}") };
        self.wrong(&field, &format!("from {least} to {most}"), &hint);
        None
    }

    /// `Some(None)` for `none`.
    pub(super) fn duration_or_none(&mut self, fields: &Fields<'_>, name: &'static str) -> Option<Option<Duration>> {
        match fields.get(name)?.text() {
            Some("none") => Some(None),
            _ => self.duration(fields, name).map(Some),
        }
    }

    fn no_unit(&mut self, field: &Field<'_>, number: &str) -> Option<Duration> {
        let number = number.trim();
        let hint = match number.starts_with('-') {
            true => "a duration is not negative".to_owned(),
            false => format!("write {number}s or {number}ms"),
        };
        self.wrong(field, "a duration with a unit", &hint);
        None
    }

    /// Bytes; `Some(None)` for `none`, where that may stand.
    pub(super) fn size(&mut self, fields: &Fields<'_>, name: &'static str) -> Option<Option<u64>> {
        let field = fields.get(name)?;
        let Takes::Size(least, most, words) = fields.section.kind(name) else { return None };
        let or = if words.is_empty() { String::new() } else { format!(" or {words}") };
        let hint = "write a number and a unit, as in 16kib (16 x 1024 bytes) or 1mb (1,000,000 bytes)";
        let value = match field.scalar() {
            Some(scalar) if scalar.text == words && !words.is_empty() => return Some(None),
            Some(scalar) if scalar.kind == Kind::Text && !is_number(&scalar.text) => {
                match scalar.text.trim().parse::<bytesize::ByteSize>() {
                    Ok(size) => size.as_u64(),
                    Err(_) => {
                        self.wrong(&field, &format!("a size{or}"), hint);
                        return None;
                    }
                }
            }
            Some(scalar) if scalar.kind == Kind::Text || matches!(scalar.kind, Kind::Int(_) | Kind::Float) => {
                let number = scalar.text.trim();
                self.wrong(
                    &field,
                    &format!("a size with a unit{or}"),
                    &format!("write {number}b for bytes, or {number}kib"),
                );
                return None;
            }
            _ => {
                self.wrong(&field, &format!("a size{or}"), hint);
                return None;
            }
        };
        if (least..=most).contains(&value) {
            return Some(Some(value));
        }
        let low = value < least;
        let [least, most] = [least, most].map(size_text);
        let hint = if low { format!("the least is {least}") } else { format!("the most is {most}") };
        self.wrong(&field, &format!("from {least} to {most}{or}"), &hint);
        None
    }

    /// One of several words; reports the nearest.
    pub(super) fn choice(
        &mut self,
        field: &Field<'_>,
        words: &[&'static str],
        others: &[(&str, &'static str)],
    ) -> Option<&'static str> {
        let expected = match words {
            [all @ .., last] => format!("{} or {last}", all.join(", ")),
            [] => String::new(),
        };
        let Some(text) = field.scalar().map(|scalar| scalar.text.as_str()) else {
            self.wrong(field, &expected, "");
            return None;
        };
        if let Some(word) = words.iter().find(|word| **word == text) {
            return Some(word);
        }
        let other = others.iter().find(|(other, _)| *other == text).map(|(_, hint)| (*hint).to_owned());
        let near = || nearest(text, words.iter().copied()).map(|word| format!("did you mean {}?", shown(word)));
        let hint = other.or_else(near).unwrap_or_default();
        self.wrong(field, &expected, &hint);
        None
    }

    /// A list of words, or one text that is split at spaces.
    pub(super) fn words(&mut self, field: &Field<'_>) -> Option<Vec<String>> {
        match (&field.node.value, field.items()) {
            (_, Some(items)) => {
                // Not `collect`: every wrong item is reported.
                let words: Vec<Option<String>> = items.iter().map(|item| self.word(item)).collect();
                words.into_iter().collect()
            }
            (Value::Scalar(scalar), _) => {
                if let Some((what, hint)) = needs_a_shell(&scalar.text) {
                    let message = format!("{} has {what}, but there is no shell that would read it", field.path);
                    self.found.error(field.at(), message, hint);
                    return None;
                }
                self.word(field).map(|text| text.split_whitespace().map(str::to_owned).collect())
            }
            _ => {
                self.wrong(field, "a list of words", "write [program, argument]");
                None
            }
        }
    }
}

/// What only a shell would understand in a text that is split at spaces.
fn needs_a_shell(text: &str) -> Option<(String, String)> {
    let as_list = || {
        let words: Vec<String> = text.split_whitespace().map(|word| format!("{word:?}")).collect();
        match words.len() <= 12 && !text.contains(['"', '\'', '`', '\\']) {
            true => format!("write a list: [{}]", words.join(", ")),
            false => "write a list: [program, \"argument with spaces\"]".to_owned(),
        }
    };
    if let Some(c) = text.chars().find(|c| matches!(c, '"' | '\'' | '\\')) {
        return Some((format!("the character {c}"), as_list()));
    }
    if let Some(c) = text.chars().find(|c| matches!(c, '|' | '&' | ';' | '<' | '>' | '(' | ')' | '$' | '`' | '\n')) {
        let hint = "write a list; if you need a shell: [sh, -c, \"exec ...\"]".to_owned();
        return Some((format!("the character {}", c.escape_debug()), hint));
    }
    if let Some(c) = text.chars().find(|c| matches!(c, '*' | '?' | '[' | ']')) {
        return Some((format!("the character {c}"), as_list()));
    }
    let special = text.split_whitespace().find(|word| word.starts_with(['~', '#', '!']));
    special.map(|word| (format!("the word {}", shown(word)), as_list()))
}

fn is_number(text: &str) -> bool {
    text.trim().parse::<f64>().is_ok_and(f64::is_finite)
}

/// The shortest text that reads back as this duration.
pub(super) fn duration_text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// The shortest text that reads back as this many bytes.
pub(super) fn size_text(bytes: u64) -> String {
    const UNITS: [(&str, u32); 5] = [("pib", 50), ("tib", 40), ("gib", 30), ("mib", 20), ("kib", 10)];
    let fits = |(_, shift): &(&str, u32)| bytes > 0 && bytes.is_multiple_of(1 << shift);
    match UNITS.iter().find(|unit| fits(unit)) {
        Some((name, shift)) => format!("{}{name}", bytes >> shift),
        None => format!("{bytes}b"),
    }
}
