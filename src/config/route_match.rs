//! `routes`: what a route asks for: host, path, methods, headers.

use super::error::shown;
use super::fields::{Decoder, Field, Fields};
use super::yaml::Kind;
use crate::gateway::{HeaderRule, HeaderValue, PathRule, check_pattern, normal_path};

/// Most methods, and most headers, of one route.
const MOST: usize = 16;
/// Longest value of a header, and longest pattern, in bytes.
const LONGEST: usize = 1024;

/// What a route asks for; `None` where a part of it is wrong: a wrong host is not "every host".
pub(super) struct Matched {
    pub(super) host: Option<String>,
    pub(super) path: PathRule,
    pub(super) methods: Vec<String>,
    pub(super) headers: Vec<HeaderRule>,
}

pub(super) fn decode(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Matched> {
    let host = fields.get("host").map(|field| host(d, &field));
    let path = path_rule(d, fields);
    let methods = fields.get("methods").map_or(Some(Vec::new()), |field| methods(d, &field));
    let headers = fields.filled("headers").map_or(Some(Vec::new()), |field| headers(d, &field));
    let host = match host {
        Some(host) => Some(host?),
        None => None,
    };
    Some(Matched { host, path: path?, methods: methods?, headers: headers? })
}

fn path_rule(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<PathRule> {
    let given: Vec<Field<'_>> = ["path", "exact", "regex"].into_iter().filter_map(|name| fields.get(name)).collect();
    if let [first, second, ..] = given.as_slice() {
        let name = |field: &Field<'_>| field.path.rsplit('.').next().unwrap_or_default().to_owned();
        let message = format!("{}: {} and {} cannot stand together", fields.path, name(first), name(second));
        d.found.error(second.key_at, message, "keep one; a regex may begin with ^ and the path");
        return None;
    }
    if let Some(field) = fields.get("exact") {
        return whole_path(d, &field).map(PathRule::Exact);
    }
    if let Some(field) = fields.get("regex") {
        return pattern(d, &field).map(PathRule::Pattern);
    }
    fields.get("path").map_or_else(|| Some("/".to_owned()), |field| path(d, &field)).map(PathRule::Prefix)
}

/// Begins with `/`; may end in one.
fn whole_path(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<String> {
    let path = d.word(field)?;
    let checked = path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(&path);
    if let Some(hint) = path_hint(checked) {
        d.wrong(field, "a path", &hint);
        return None;
    }
    Some(in_normal_form(&path))
}

fn in_normal_form(path: &str) -> String {
    String::from_utf8_lossy(&normal_path(path.as_bytes())).into_owned()
}

fn pattern(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<String> {
    let pattern = d.word(field)?;
    if pattern.is_empty() || pattern.len() > LONGEST {
        let hint = format!("write 1 to {LONGEST} bytes, as in ^/api/v[0-9]+/");
        d.wrong(field, "a regular expression", &hint);
        return None;
    }
    match check_pattern(&pattern) {
        Ok(()) => Some(pattern),
        Err(why) => {
            d.wrong(field, "a regular expression", &why);
            None
        }
    }
}

fn methods(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<Vec<String>> {
    let words = d.words(field)?;
    if words.is_empty() || words.len() > MOST {
        d.wrong(field, "a method, or a list of methods", &format!("write 1 to {MOST} of them, as in [GET, POST]"));
        return None;
    }
    for word in &words {
        if !word.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            let upper = word.to_uppercase();
            let message = format!("{}: {} is no method", field.path, shown(word));
            d.found.error(field.at(), message, format!("write it in capitals: {}", shown(&upper)));
            return None;
        }
    }
    Some(words)
}

fn headers(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<Vec<HeaderRule>> {
    let Some(named) = d.named(field) else {
        d.wrong(field, "a map", "write {X-Version: \"2\"}; true for any value, false for none");
        return None;
    };
    if named.len() > MOST {
        let message = format!("{} headers, and at most {MOST} are allowed", named.len());
        d.found.error(field.key_at, message, "write fewer");
        return None;
    }
    let mut rules = Vec::new();
    for (entry, field) in named {
        let name = entry.key.to_ascii_lowercase();
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            let message = format!("{} is no name of a header", shown(&entry.key));
            d.found.error(entry.key_at, message, "write it as in X-Version");
            return None;
        }
        let value = match field.scalar().map(|scalar| scalar.kind) {
            Some(Kind::Bool(true)) => HeaderValue::Present,
            Some(Kind::Bool(false)) => HeaderValue::Absent,
            _ => HeaderValue::Is(header_value(d, &field)?),
        };
        rules.push(HeaderRule { name, value });
    }
    Some(rules)
}

/// A value that a field can have.
pub(super) fn header_value(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<String> {
    let value = d.word(field)?;
    if value.len() > LONGEST || value.trim() != value || value.chars().any(char::is_control) {
        let hint = format!("at most {LONGEST} bytes, without line breaks and without spaces around it");
        d.wrong(field, "the value of a header", &hint);
        return None;
    }
    Some(value)
}

/// Lower case; a name, an IP address (IPv6 in brackets) or `*.` and a name.
pub(super) fn host(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<String> {
    let host = d.word(field)?.to_lowercase();
    if let Some(hint) = host_hint(&host) {
        d.wrong(field, "a host name", hint);
        return None;
    }
    Some(host)
}

fn host_hint(host: &str) -> Option<&'static str> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().is_ok();
    if host.starts_with('[') && host.ends_with(']') && address(&host[1..host.len() - 1]) {
        return None;
    }
    if address(host) {
        return Some("put an IPv6 address in brackets and quotes: \"[::1]\"");
    }
    if host.is_empty() || host == "*" || host == "_" {
        return Some("leave host out for every host");
    }
    if host.contains("://") {
        return Some("leave out the scheme: write example.com");
    }
    if host.contains('/') {
        return Some("write what follows the name as path");
    }
    if host.contains(':') {
        return Some("leave out the port: a route matches on every port");
    }
    if !host.is_ascii() {
        return Some("write the name as browsers send it, as in xn--bcher-kva.example");
    }
    if host.ends_with('.') {
        return Some("leave out the last dot");
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    if name.contains('*') {
        return Some("a * may only be the first label, as in *.example.com");
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(good);
    match name.len() <= 253 && name.split('.').all(label) {
        true => None,
        false => Some("a name has letters, digits and - between dots, as in chat.example.com"),
    }
}

/// Begins with `/`; whole segments, as a client sends them.
pub(super) fn path(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<String> {
    let path = d.word(field)?;
    if let Some(hint) = path_hint(&path) {
        d.wrong(field, "a path", &hint);
        return None;
    }
    Some(in_normal_form(&path))
}

fn path_hint(path: &str) -> Option<String> {
    let fixed = path.trim_end_matches(['/', '*', '.']);
    if !path.starts_with('/') {
        return Some(format!("begin with a slash: {}", shown(&format!("/{path}"))));
    }
    if path.contains('*') || path.ends_with(".*") {
        let fixed = if fixed.is_empty() { "/" } else { fixed };
        return Some(format!("a path matches everything below it: write {}", shown(fixed)));
    }
    if path.contains(['?', '#']) {
        return Some("a route does not look at the query: write only the path".into());
    }
    if path.contains("//") || path.split('/').any(|segment| segment == "." || segment == "..") {
        return Some("write the path without //, . and ..".into());
    }
    if path.len() > 1 && path.ends_with('/') {
        return Some(format!("leave out the last slash: {} matches everything below it too", shown(fixed)));
    }
    if path.bytes().any(|b| !b.is_ascii_graphic()) {
        return Some("write other characters percent-encoded, as in /caf%C3%A9".into());
    }
    (path.len() > 1024).then(|| "a path has at most 1024 bytes".into())
}
