//! `routes`: the table of what answers which request. What one asks for stands in [`route_match`], what it does in
//! [`route_actions`].

use super::apps::Apps;
use super::error::{nearest, shown};
use super::fields::{Decoder, Field, Fields};
use super::route_match::{self, Matched};
use super::schema::ROUTE;
use super::yaml::Value;
use super::{Route, route_actions};
use crate::gateway::PathRule;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Most routes of a configuration.
const MOST: usize = 4096;
/// Most of them with a pattern: those of one host are all asked for each request.
const MOST_PATTERNS: usize = 256;

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
    let patterns = items.iter().filter(|item| has_pattern(item)).count();
    if patterns > MOST_PATTERNS {
        let at = top.get("routes").and_then(|field| field.key_at);
        let message = format!("{patterns} routes with a regex, and at most {MOST_PATTERNS} are allowed");
        d.found.error(at, message, "use path and exact: they cost the same, however many there are");
    }
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut routes = Vec::new();
    let mut routed = vec![false; apps.names.len()];
    let maintenance = route_actions::apps_in_maintenance(d, apps);
    for item in items.iter().take(MOST) {
        let Some(fields) = d.fields(item, &ROUTE) else { continue };
        let matched = route_match::decode(d, &fields);
        let done = route_actions::decode(d, &fields);
        let name = if done.needs_app(&fields) { app(d, item, &fields, apps) } else { None };
        if let Some(at) = apps.names.iter().position(|(known, _)| Some(known) == name.as_ref()) {
            routed[at] = true;
        }
        let Some(matched) = matched else { continue };
        route_actions::check_strip(d, &fields, &matched.path, &done);
        if let Some(message) = already_there(&matched, item, &mut seen) {
            d.found.error(item.at(), message.0, message.1);
            continue;
        }
        let index = apps.apps.iter().position(|app| Some(&app.name) == name.as_ref());
        let in_maintenance = name.as_ref().and_then(|name| maintenance.get(name)).cloned();
        routes.extend(done.route(matched, index, in_maintenance));
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
    let route = Route::to_app(None, "/", 0);
    let maintenance = route_actions::apps_in_maintenance(d, apps).into_values().next();
    match maintenance {
        Some(action) => vec![Route { action, ..route }],
        None => vec![route],
    }
}

/// Whether paths that can be read in several ways are refused.
pub(super) fn strict(d: &mut Decoder<'_>, top: &Fields<'_>) -> bool {
    let Some(field) = top.get("paths") else { return true };
    d.choice(&field, &["strict", "lenient"], &[]) != Some("lenient")
}

fn has_pattern(item: &Field<'_>) -> bool {
    matches!(&item.node.value, Value::Map(entries) if entries.iter().any(|entry| entry.key == "regex"))
}

/// Message and hint for a route that asks for the same as one before it.
fn already_there(matched: &Matched, item: &Field<'_>, seen: &mut HashMap<String, usize>) -> Option<(String, String)> {
    let Matched { host, path, methods, headers } = matched;
    let line = item.at().map_or(0, |at| at.line);
    match seen.entry(format!("{host:?} {path:?} {methods:?} {headers:?}")) {
        Entry::Vacant(free) => {
            free.insert(line);
            None
        }
        Entry::Occupied(first) => {
            let of = host.as_deref().unwrap_or("any host");
            let (PathRule::Prefix(path) | PathRule::Exact(path) | PathRule::Pattern(path)) = path;
            let message = format!("{}: there is already a route for {of} and {path}", item.path);
            Some((message, format!("change or remove one; the first is on line {}", first.get())))
        }
    }
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
