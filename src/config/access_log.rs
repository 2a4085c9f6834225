//! `access_log`: one line per request.

use super::error::{nearest, shown};
use super::fields::{Decoder, Field, Fields};
use super::logs::rotate;
use super::schema::{ACCESS_LOG, ACCESS_LOG_ROTATE};
use crate::gateway::{AccessFormat, AccessPolicy, Redact, UnknownVariable};
use crate::process::output::Target;

/// Names of query parameters in `redact`, and bytes of one.
const MOST_NAMES: usize = 256;
const LONGEST_NAME: usize = 256;
/// Bytes of a template.
const LONGEST_TEMPLATE: usize = 4096;

pub(super) fn decode(d: &mut Decoder<'_>, top: &Fields<'_>) -> Option<AccessPolicy> {
    let field = top.filled("access_log")?;
    let fields = d.fields(&field, &ACCESS_LOG)?;
    let format = fields.get("format").and_then(|field| format(d, &field)).unwrap_or_else(AccessFormat::combined);
    let redact = fields.get("redact").and_then(|field| redact(d, &field)).unwrap_or_default();
    let sample = fields.get("sample").and_then(|field| sample(d, &field)).unwrap_or(1.0);
    let tunnel_begin = d.flag(&fields, "tunnel_begin").unwrap_or(false);
    let rotate = rotate(d, &fields, &ACCESS_LOG_ROTATE);
    let Some(file) = fields.get("file") else {
        if !fields.misspelt("file") {
            d.found.error(field.key_at, "access_log needs a file", "write file: access.log, or file: stdout");
        }
        return None;
    };
    let target = match file.scalar().map(|scalar| scalar.text.as_str()) {
        Some("off" | "false") => return None,
        Some("stdout") => Target::Stdout,
        Some("stderr") => Target::Stderr,
        _ => {
            let path = d.file(&file)?;
            if file.text().is_some_and(|text| text.ends_with('/')) {
                let message = format!("{} names a directory", file.path);
                d.found.error(file.at(), message, "write a file, as in logs/access.log");
                return None;
            }
            Target::File(path, rotate)
        }
    };
    Some(AccessPolicy { target, format, redact, sample, tunnel_begin })
}

fn format(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<AccessFormat> {
    let text = d.word(field)?;
    if !text.contains('$') {
        return match d.choice(field, &["combined", "json"], &[("common", "write combined")])? {
            "json" => Some(AccessFormat::Json),
            _ => Some(AccessFormat::combined()),
        };
    }
    // The word may stand before it.
    let template = text.strip_prefix("template ").unwrap_or(&text);
    if template.len() > LONGEST_TEMPLATE || template.contains(char::is_control) {
        let message = format!("{} must be one line of at most {LONGEST_TEMPLATE} bytes", field.path);
        d.found.error(field.at(), message, "write what one line of the log is to hold");
        return None;
    }
    match AccessFormat::template(template) {
        Ok(format) => Some(format),
        Err(UnknownVariable::Dollar) => {
            let message = format!("{} has a \"$\" without a variable's name behind it", field.path);
            d.found.error(field.at(), message, "write $status, or $${status} before a letter");
            None
        }
        Err(UnknownVariable::Variable(name)) => {
            let hint = match nearest(&name, AccessFormat::variables()) {
                Some(near) => format!("did you mean ${near}?"),
                None => "docs/configuration.md has all of them; a request's other headers are not kept".to_owned(),
            };
            let message = format!("{} has no variable {}", field.path, shown(&format!("${name}")));
            d.found.error(field.at(), message, hint);
            None
        }
    }
}

fn redact(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<Redact> {
    let Some(items) = field.items() else {
        d.wrong(field, "a list of names", "write [token, sid], or [] to log queries as they are");
        return None;
    };
    if items.len() > MOST_NAMES {
        let message = format!("{} has {} names; there may be {MOST_NAMES}", field.path, items.len());
        d.found.error(field.at(), message, "name only what holds secrets");
        return None;
    }
    let mut names = Vec::new();
    for item in &items {
        let name = d.word(item)?;
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains(['&', '=', ';', '?', '#']) {
            let message = format!("{} is no name of a query parameter: {}", item.path, shown(&name));
            d.found.error(item.at(), message, "write the name alone, as in token");
            return None;
        }
        names.push(name);
    }
    Some(Redact::new(names.iter().map(String::as_str)))
}

/// The share of requests that is logged.
fn sample(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<f64> {
    let text = field.scalar().map(|scalar| scalar.text.as_str()).unwrap_or_default();
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Some(share),
        _ => {
            d.wrong(field, "a number from 0 to 1", "write 0.1 for one request of ten");
            None
        }
    }
}
