//! `routes`: which app answers which host and path.

use super::Route;
use super::apps::Apps;
use super::error::{nearest, shown};
use super::fields::{Decoder, Field, Fields};
use super::schema::ROUTE;
use super::yaml::Value;
use std::collections::HashMap;

/// Most routes of a configuration.
const MOST: usize = 4096;

/// The routes in the order of the file. An app that could not be read has routes, but no index: those are
/// checked and left out.
pub(super) fn decode(d: &mut Decoder<'_>, top: &Fields<'_>, apps: &Apps<'_>) -> Vec<Route> {
    let items = match top.filled("routes") {
        None => Vec::new(),
        Some(field) => match field.items() {
            Some(items) => items,
            None => {
                let hint = match field.node.value {
                    Value::Map(_) => "write each route with a dash: - {host: example.com, app: chat}",
                    _ => "write [{host: example.com, app: chat}]",
                };
                d.wrong(&field, "a list", hint);
                return Vec::new();
            }
        },
    };
    if items.is_empty() {
        return without(d, top, apps);
    }
    if items.len() > MOST {
        let at = top.get("routes").and_then(|field| field.key_at);
        let hint = "*.example.com stands for every name below it, and a path for everything below it";
        d.found.error(at, format!("{} routes, and at most {MOST} are allowed", items.len()), hint);
    }
    let mut seen: HashMap<(Option<String>, String), usize> = HashMap::new();
    let mut routes = Vec::new();
    let mut routed = vec![false; apps.names.len()];
    for item in items.iter().take(MOST) {
        let Some(fields) = d.fields(item, &ROUTE) else { continue };
        let host = fields.get("host").map(|field| host(d, &field));
        let path = fields.get("path").map_or_else(|| Some("/".to_owned()), |field| path(d, &field));
        let name = app(d, item, &fields, apps);
        if let Some(at) = apps.names.iter().position(|(known, _)| Some(known) == name.as_ref()) {
            routed[at] = true;
        }
        // A wrong host is not "every host": such a route is not compared.
        let (host, Some(path)) = (
            match host {
                Some(None) => continue,
                Some(host) => host,
                None => None,
            },
            path,
        ) else {
            continue;
        };
        let line = item.at().map_or(0, |at| at.line);
        if let Some(first) = seen.get(&(host.clone(), path.clone())) {
            let of = host.as_deref().unwrap_or("any host");
            let message = format!("{}: there is already a route for {of} and {path}", item.path);
            d.found.error(item.at(), message, format!("change or remove one; the first is on line {first}"));
            continue;
        }
        seen.insert((host.clone(), path.clone()), line);
        let index = apps.apps.iter().position(|app| Some(&app.name) == name.as_ref());
        routes.extend(index.map(|app| Route { host, path, app }));
    }
    for ((name, field), _) in apps.names.iter().zip(&routed).filter(|(_, routed)| !**routed) {
        let message = format!("app {name} has no route: it will run, but get no requests");
        d.found.warn(field.key_at, message, format!("add a route with app: {name}, or remove the app"));
    }
    routes
}

fn without(d: &mut Decoder<'_>, top: &Fields<'_>, apps: &Apps<'_>) -> Vec<Route> {
    if let [(first, _), (second, _), ..] = apps.names.as_slice() {
        let at = top.get("routes").or_else(|| top.get("apps")).and_then(|field| field.key_at);
        let message = "several apps, but no routes that say which app gets which requests";
        let hint =
            format!("write routes: [{{host: {first}.example.com, app: {first}}}, {{path: /{second}, app: {second}}}]");
        d.found.error(at, message, hint);
    }
    vec![Route { host: None, path: "/".into(), app: 0 }]
}

fn app(d: &mut Decoder<'_>, item: &Field<'_>, fields: &Fields<'_>, apps: &Apps<'_>) -> Option<String> {
    let names = || apps.names.iter().map(|(name, _)| name.as_str());
    let Some(field) = fields.get("app") else {
        return match apps.names.as_slice() {
            [(only, _)] => Some(only.clone()),
            [] => None,
            _ => {
                let all: Vec<&str> = names().take(8).collect();
                d.found.error(
                    item.at(),
                    format!("{} names no app", item.path),
                    format!("write app: {}", all.join(" or app: ")),
                );
                None
            }
        };
    };
    let name = d.word(&field)?;
    if names().any(|known| known == name) {
        return Some(name);
    }
    if apps.names.is_empty() || d.found.is_full() {
        return None;
    }
    let hint = match nearest(&name, names()) {
        Some(near) => format!("did you mean {}?", shown(near)),
        None => format!("the apps are {}", names().take(8).collect::<Vec<_>>().join(", ")),
    };
    d.found.error(field.at(), format!("{}: there is no app {}", field.path, shown(&name)), hint);
    None
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
fn path(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<String> {
    let path = d.word(field)?;
    if let Some(hint) = path_hint(&path) {
        d.wrong(field, "a path", &hint);
        return None;
    }
    Some(path)
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
