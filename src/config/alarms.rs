//! `alarms`: when somebody is to be told, and who.

use super::command::check_program;
use super::error::shown;
use super::fields::{Decoder, Field, Fields};
use super::schema::{ALARMS, WEBHOOK};
use super::{Alarms, Webhook};
use http::{HeaderName, HeaderValue, Uri};

/// Headers that belong to the request itself.
const OURS: &[&str] =
    &["host", "content-length", "connection", "transfer-encoding", "expect", "upgrade", "te", "trailer"];

pub(super) fn decode(d: &mut Decoder<'_>, top: &Fields<'_>) -> Alarms {
    let default = Alarms::default();
    let Some(field) = top.filled("alarms") else { return default };
    let Some(fields) = d.fields(&field, &ALARMS) else { return default };
    Alarms {
        repeat: d.duration(&fields, "repeat").unwrap_or(default.repeat),
        hold: d.duration(&fields, "for").unwrap_or(default.hold),
        memory: d.size(&fields, "memory").unwrap_or(default.memory),
        elu: elu(d, &fields).unwrap_or(default.elu),
        lag: d.duration_or_none(&fields, "lag").unwrap_or(default.lag),
        disk_free: d.size(&fields, "disk_free").unwrap_or(default.disk_free),
        certificate_expires: d.duration_or_none(&fields, "certificate_expires").unwrap_or(default.certificate_expires),
        queue_overflow: d.flag(&fields, "queue_overflow").unwrap_or(default.queue_overflow),
        log_drops: d.flag(&fields, "log_drops").unwrap_or(default.log_drops),
        webhook: webhook(d, &fields),
        exec: exec(d, &fields).unwrap_or_default(),
    }
}

/// A share of a second, or `none`.
fn elu(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Option<f64>> {
    let field = fields.get("elu")?;
    let text = field.scalar().map(|scalar| scalar.text.as_str()).unwrap_or_default();
    if text == "none" {
        return Some(None);
    }
    match text.parse::<f64>() {
        Ok(share) if (0.1..=1.0).contains(&share) => Some(Some(share)),
        _ => {
            d.wrong(&field, "a number from 0.1 to 1, or none", "write 0.95 for 95 % of the time");
            None
        }
    }
}

fn exec(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Vec<String>> {
    let field = fields.filled("exec")?;
    let words = d.words(&field)?;
    let Some(program) = words.first() else {
        d.found.error(
            field.at(),
            format!("{} is empty", field.path),
            "write [program, argument], or leave the key out",
        );
        return None;
    };
    let base = d.base.clone();
    check_program(d, &field, program, &base, &[]);
    // The proxy's own directory may be another one.
    let mut words = words;
    if let Some(program) = words.first_mut().filter(|program| program.contains('/')) {
        *program = base.join(&*program).to_string_lossy().into_owned();
    }
    Some(words)
}

fn webhook(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Webhook> {
    let field = fields.filled("webhook")?;
    if let Some(url) = field.text() {
        d.wrong(&field, "a map", &format!("write webhook: {{url: {}}}", shown(url)));
        return None;
    }
    let fields = d.fields(&field, &WEBHOOK)?;
    let default = Webhook::default();
    let headers = headers(d, &fields);
    let timeout = d.duration(&fields, "timeout").unwrap_or(default.timeout);
    let retries = d.integer(&fields, "retries").and_then(|n| u32::try_from(n).ok()).unwrap_or(default.retries);
    let Some(field) = fields.get("url") else {
        if !fields.misspelt("url") {
            d.found.error(
                field.key_at,
                format!("{} has no url", field.path),
                "write url: \"https://alarms.example.com/\"",
            );
        }
        return None;
    };
    Some(Webhook { url: url(d, &field)?, headers, timeout, retries })
}

/// What is shown in messages leaves out the path: it may hold a secret.
fn url(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<Uri> {
    const HINT: &str = "write \"https://alarms.example.com/path\"";
    let text = d.word(field)?;
    let uri: Option<Uri> = text.parse().ok();
    let good = uri.filter(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    let Some(uri) = good else {
        let message = format!("{} must be a URL that begins with http:// or https:// and a host", field.path);
        d.found.error(field.at(), message, HINT);
        return None;
    };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        let message = format!("{} has a user or password in it, which would not be sent", field.path);
        d.found.error(field.at(), message, "write headers: {Authorization: \"Basic ...\"}");
        return None;
    }
    Some(uri)
}

fn headers(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let Some(field) = fields.filled("headers") else { return Vec::new() };
    let Some(entries) = d.named(&field) else {
        d.wrong(&field, "a map of names and values", "write headers: {Authorization: \"Bearer ...\"}");
        return Vec::new();
    };
    let mut headers = Vec::new();
    for (entry, field) in entries {
        let Ok(name) = HeaderName::from_bytes(entry.key.as_bytes()) else {
            d.found.error(field.key_at, format!("{} cannot be the name of a header", shown(&entry.key)), "");
            continue;
        };
        if OURS.contains(&name.as_str()) {
            d.found.error(field.key_at, format!("{} is set by the proxy", field.path), "remove it");
            continue;
        }
        let Some(value) = d.word(&field) else { continue };
        match HeaderValue::from_str(&value) {
            Ok(mut value) => {
                value.set_sensitive(true);
                headers.push((name, value));
            }
            Err(_) => d.found.error(
                field.at(),
                format!("{} cannot be the value of a header", field.path),
                "write one line of ASCII",
            ),
        }
    }
    headers
}
