//! `routes`: what a route does: files, redirects, fixed answers, maintenance, another path, limits of its own.

use super::apps::Apps;
use super::error_pages::read_page;
use super::fields::{Decoder, Field, Fields};
use super::machine::Seen;
use super::route_match::{self, Matched};
use super::schema::{ANSWER, FILES, MAINTENANCE, REDIRECT, ROUTE_LIMITS};
use super::yaml::{Kind, Value};
use crate::gateway::{Action, Files, PLACEHOLDERS, PathRule, Redirect, Rewrite, Route, RouteLimits, StaticAnswer};
use bytes::Bytes;
use std::collections::HashMap;
use std::time::Duration;

const RETRY_AFTER: Duration = Duration::from_secs(120);
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
/// Longest target of a redirect, in bytes.
const LONGEST_TARGET: usize = 2048;

/// What a route does. A part that is wrong is left out: there is an error then.
pub(super) struct Done {
    /// In the place of an app.
    action: Option<Action>,
    maintenance: Option<Action>,
    files: Option<Files>,
    rewrite: Option<Rewrite>,
    limits: RouteLimits,
    /// An action is there, right or wrong.
    acts: bool,
}

pub(super) fn decode(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Done {
    let redirected = fields.get("redirect");
    let answered = fields.filled("answer");
    for field in [&redirected, &answered].into_iter().flatten() {
        if let Some(app) = fields.get("app") {
            let message = format!("{} and app cannot stand together", field.path);
            d.found.error(app.key_at, message, "keep one");
        }
    }
    if let (Some(_), Some(field)) = (&redirected, &answered) {
        let message = format!("{}: redirect and answer cannot stand together", fields.path);
        d.found.error(field.key_at, message, "keep one");
    }
    let acts = redirected.is_some() || answered.is_some();
    let redirected = redirected.and_then(|field| redirect(d, &field)).map(Action::Redirect);
    let answered = answered.and_then(|field| answer(d, &field)).map(Action::Answer);
    Done {
        action: redirected.or(answered),
        maintenance: fields.get("maintenance").and_then(|field| maintenance(d, &field)),
        files: fields.get("files").and_then(|field| files(d, &field)),
        rewrite: rewrite(d, fields),
        limits: limits(d, fields),
        acts,
    }
}

impl Done {
    /// Whether the route names an app, or has to. One with nothing but files may do without.
    pub(super) fn needs_app(&self, fields: &Fields<'_>) -> bool {
        fields.get("app").is_some() || !(self.acts || fields.get("files").is_some() || self.maintenance.is_some())
    }

    /// The route; `None` where an app or an action is missing because it is wrong.
    pub(super) fn route(self, matched: Matched, app: Option<usize>, app_maintenance: Option<Action>) -> Option<Route> {
        let Matched { host, path, methods, headers } = matched;
        let Done { action, maintenance, files, rewrite, limits, .. } = self;
        let in_maintenance = maintenance.or(app_maintenance);
        let files = files.filter(|_| in_maintenance.is_none());
        let without = files.is_some().then_some(Action::FilesOnly);
        let action = in_maintenance.or(action).or(app.map(Action::App)).or(without)?;
        Some(Route { name: String::new(), host, path, methods, headers, files, action, rewrite, limits })
    }
}

/// The apps that are in maintenance, whatever their routes say.
pub(super) fn apps_in_maintenance(d: &mut Decoder<'_>, apps: &Apps<'_>) -> HashMap<String, Action> {
    let mut found = HashMap::new();
    for (name, field) in &apps.names {
        let Value::Map(entries) = &field.node.value else { continue };
        let Some(entry) = entries.iter().find(|entry| entry.key == "maintenance") else { continue };
        let path = format!("{}.maintenance", field.path);
        if let Some(action) = maintenance(d, &Field { path, key_at: entry.key_at, node: &entry.node }) {
            found.insert(name.clone(), action);
        }
    }
    found
}

fn maintenance(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<Action> {
    match (&field.node.value, field.scalar().map(|scalar| scalar.kind)) {
        (_, Some(Kind::Bool(true))) => return Some(Action::Maintenance(RETRY_AFTER.as_secs())),
        (_, Some(Kind::Bool(false))) => return None,
        (Value::Map(_), _) => {}
        _ => {
            d.wrong(field, "true, false or a map", "write true, or {page: maintenance.html, retry_after: 10m}");
            return None;
        }
    }
    let fields = d.fields(field, &MAINTENANCE)?;
    let retry_after = d.duration(&fields, "retry_after").unwrap_or(RETRY_AFTER).as_secs();
    let Some(page) = fields.get("page") else { return Some(Action::Maintenance(retry_after)) };
    let (content_type, body) = read_page(d, &page)?;
    Some(Action::Answer(StaticAnswer { status: 503, content_type, body, retry_after: Some(retry_after) }))
}

fn redirect(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<Redirect> {
    const STATUSES: [u64; 5] = [301, 302, 303, 307, 308];
    if field.scalar().is_some() {
        return target(d, field).map(|to| Redirect { status: 302, to });
    }
    let fields = d.fields(field, &REDIRECT)?;
    let status = d.integer(&fields, "status").unwrap_or(302);
    if !STATUSES.contains(&status) {
        let message = format!("{}.status must be 301, 302, 303, 307 or 308, not {status}", field.path);
        d.found.error(fields.get("status").and_then(|field| field.at()), message, "the last two keep the method");
    }
    let Some(to) = fields.get("to") else {
        if !fields.misspelt("to") {
            d.found.error(field.at(), format!("{} has no target", field.path), "write {to: /new}");
        }
        return None;
    };
    Some(Redirect { status: u16::try_from(status).ok()?, to: target(d, &to)? })
}

fn target(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<String> {
    let to = d.word(field)?;
    let begins = ["/", "http://", "https://", "{path}"].iter().any(|start| to.starts_with(start));
    let hint = if to.len() > LONGEST_TARGET {
        format!("a target has at most {LONGEST_TARGET} bytes")
    } else if to.starts_with("//") || !begins {
        "begin with /, http:// or https://, as in https://{host}{path}{query}".to_owned()
    } else if to.bytes().any(|b| !b.is_ascii_graphic()) {
        "write other characters percent-encoded, as in /caf%C3%A9".to_owned()
    } else if let Some(unknown) = unknown_placeholder(&to) {
        format!("{unknown} means nothing here: there are {}", PLACEHOLDERS.join(", "))
    } else {
        return Some(to);
    };
    d.wrong(field, "the target of a redirect", &hint);
    None
}

fn unknown_placeholder(to: &str) -> Option<String> {
    let braces = to.match_indices('{').map(|(at, _)| &to[at..]);
    let mut unknown = braces.filter(|rest| !PLACEHOLDERS.iter().any(|name| rest.starts_with(name)));
    unknown.next().map(|rest| rest.split_inclusive('}').next().unwrap_or(rest).to_owned())
}

fn answer(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<StaticAnswer> {
    let fields = d.fields(field, &ANSWER)?;
    let status = d.integer(&fields, "status").and_then(|status| u16::try_from(status).ok()).unwrap_or(200);
    let (body, file) = (fields.get("body"), fields.get("file"));
    if let (Some(_), Some(file)) = (&body, &file) {
        let message = format!("{}: body and file cannot stand together", field.path);
        d.found.error(file.key_at, message, "keep one");
        return None;
    }
    let (by_name, body) = match (body, file) {
        (_, Some(file)) => read_page(d, &file)?,
        (Some(body), _) => (PLAIN_TEXT.to_owned(), Bytes::from(d.word(&body)?)),
        _ => (PLAIN_TEXT.to_owned(), Bytes::new()),
    };
    let written = match fields.get("content_type") {
        Some(field) => Some(route_match::header_value(d, &field)?),
        None => None,
    };
    Some(StaticAnswer { status, content_type: written.unwrap_or(by_name), body, retry_after: None })
}

fn files(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<Files> {
    let plain = |directory| Files { directory, index: "index.html".into(), cache_control: None };
    if field.scalar().is_some() {
        return directory(d, field).map(plain);
    }
    let fields = d.fields(field, &FILES)?;
    let Some(at) = fields.get("directory") else {
        if !fields.misspelt("directory") {
            d.found.error(field.at(), format!("{} has no directory", field.path), "write {directory: public}");
        }
        return None;
    };
    let mut files = plain(directory(d, &at)?);
    if let Some(field) = fields.get("index") {
        files.index = d.word(&field)?;
        let index = files.index.as_str();
        if index.is_empty() || index.starts_with('.') || index.contains('/') || index.len() > 255 {
            d.wrong(&field, "the name of a file", "write index.html");
            return None;
        }
    }
    if let Some(field) = fields.get("cache_control") {
        files.cache_control = Some(route_match::header_value(d, &field)?);
    }
    Some(files)
}

fn directory(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<std::path::PathBuf> {
    let path = d.file(field)?;
    let what = match d.machine.look(&path, Seen::Directory) {
        Seen::Directory => return Some(path),
        Seen::Missing => "is not there".to_owned(),
        Seen::Closed(why) => format!("cannot be entered: {why}"),
        Seen::File { .. } | Seen::Other => "is not a directory".to_owned(),
    };
    let hint = "relative paths begin at the directory of the configuration";
    d.found.error(field.at(), format!("{}: {} {what}", field.path, path.display()), hint);
    None
}

fn rewrite(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Rewrite> {
    let mut prefix = |name: &'static str| {
        let Some(field) = fields.get(name) else { return Some(String::new()) };
        let path = route_match::path(d, &field)?;
        if path == "/" {
            d.wrong(&field, "a path below /", "leave it out");
            return None;
        }
        Some(path)
    };
    let (strip, add) = (prefix("strip_prefix"), prefix("add_prefix"));
    let rewrite = Rewrite { strip: strip?, add: add? };
    (rewrite != Rewrite::default()).then_some(rewrite)
}

/// A prefix that no path of the route has is a mistake.
pub(super) fn check_strip(d: &mut Decoder<'_>, fields: &Fields<'_>, path: &PathRule, done: &Done) {
    let Some(Rewrite { strip, .. }) = done.rewrite.as_ref().filter(|rewrite| !rewrite.strip.is_empty()) else { return };
    let (PathRule::Prefix(path) | PathRule::Exact(path)) = path else { return };
    let has_it = path.strip_prefix(strip.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if let (false, Some(field)) = (has_it, fields.get("strip_prefix")) {
        let message = format!("{}: no path below {path} begins with {strip}", field.path);
        d.found.error(field.at(), message, format!("write path: {strip}, or strip_prefix: {path}"));
    }
}

fn limits(d: &mut Decoder<'_>, fields: &Fields<'_>) -> RouteLimits {
    let Some(field) = fields.filled("limits") else { return RouteLimits::default() };
    let Some(fields) = d.fields(&field, &ROUTE_LIMITS) else { return RouteLimits::default() };
    RouteLimits {
        body_bytes: d.size(&fields, "body_size"),
        body_timeout: d.duration(&fields, "body_timeout"),
        body_rate: d.integer(&fields, "body_rate"),
        response_timeout: d.duration(&fields, "response_timeout"),
    }
}
