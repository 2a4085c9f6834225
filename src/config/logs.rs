//! `logs`: where the workers' output goes.

use super::error::shown;
use super::fields::{Decoder, Field, Fields};
use super::schema::{LOGS, ROTATE, Section};
use crate::process::output::{FilePolicy, Format, Policy, Rotate};

pub(super) fn decode(d: &mut Decoder<'_>, top: &Fields<'_>) -> Policy {
    const OUTPUTS: &[&str] = &["stdout", "file", "both", "off"];
    const OTHERS: &[(&str, &str)] =
        &[("files", "write file"), ("none", "write off"), ("null", "write off"), ("false", "write off")];
    let default = Policy::default();
    let Some(field) = top.filled("logs") else { return default };
    let Some(fields) = d.fields(&field, &LOGS) else { return default };
    let format = fields.get("format").and_then(|field| d.choice(&field, &["text", "json"], &[]));
    let path = fields.get("path").and_then(|field| Some((field.at(), path(d, &field)?)));
    let rotate = rotate(d, &fields, &ROTATE);
    let output = fields.get("output").map(|field| (field.at(), d.choice(&field, OUTPUTS, OTHERS)));
    let (at, output) = output.map_or((None, "stdout"), |(at, output)| (at, output.unwrap_or("stdout")));
    let files = matches!(output, "file" | "both");
    match (&path, fields.get("path")) {
        (Some((at, _)), _) if !files => {
            let message = format!("logs.path has no use with output: {output}");
            d.found.warn(*at, message, "write output: file, or both for standard output too");
        }
        (None, None) if files && !fields.misspelt("path") => {
            let message = format!("logs.output: {output} needs a path");
            d.found.error(at, message, "write path: \"/var/log/pingora-unix-proxy/{app}.log\"");
        }
        _ => {}
    }
    let files = path.filter(|_| files).map(|(_, path)| FilePolicy { path, rotate });
    let format = if format == Some("json") { Format::Json } else { Format::Text };
    Policy { format, stdout: matches!(output, "stdout" | "both"), files }
}

/// An absolute path in which braces only stand around what is filled in.
fn path(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<String> {
    let path = d.file(field)?;
    let Some(text) = path.to_str().map(str::to_owned) else {
        d.wrong(field, "a path in UTF-8", "");
        return None;
    };
    let rest = FilePolicy::PLACEHOLDERS.iter().fold(text.clone(), |text, name| text.replace(name, ""));
    if rest.contains(['{', '}']) {
        let message =
            format!("{} has braces around something else than app, slot or stream: {}", field.path, shown(&text));
        d.found.error(field.at(), message, "write \"/var/log/pingora-unix-proxy/{app}-{slot}.{stream}.log\"");
        return None;
    }
    if field.text().is_some_and(|text| text.ends_with('/')) {
        d.found.error(
            field.at(),
            format!("{} names a directory", field.path),
            "write a file, as in \"logs/{app}.log\"",
        );
        return None;
    }
    Some(text)
}

pub(super) fn rotate(d: &mut Decoder<'_>, fields: &Fields<'_>, section: &'static Section) -> Rotate {
    let default = Rotate::default();
    let Some(field) = fields.filled("rotate") else { return default };
    let Some(fields) = d.fields(&field, section) else { return default };
    Rotate {
        size: d.size(&fields, "size").unwrap_or(default.size),
        age: d.duration_or_none(&fields, "age").unwrap_or(default.age),
        keep: d.integer(&fields, "keep").and_then(|keep| u32::try_from(keep).ok()).unwrap_or(default.keep),
    }
}
