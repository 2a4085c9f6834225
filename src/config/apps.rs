//! `apps`: what runs, in how many workers, and how patient the proxy is with them.

use super::error::shown;
use super::fields::{Decoder, Field, Fields};
use super::machine::{Barrier, Seen};
use super::schema::{APP, QUEUE};
use super::yaml::{Node, Value};
use super::{App, affinity, command, policy, startable, variables};
use crate::gateway::Protocol;
use crate::pool::QueuePolicy;
use crate::process::spec::{Identity, Spec};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most apps of a configuration.
const MOST: usize = 256;
/// Longest name of an app, in bytes; the runtime directory may allow less.
const LONGEST_NAME: usize = 64;
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Every app that could be read, in the order of the file. A name whose app is wrong stays in `names`, so
/// that its routes are not reported too.
pub(super) struct Apps<'n> {
    pub(super) apps: Vec<App>,
    pub(super) names: Vec<(String, Field<'n>)>,
}

pub(super) fn decode<'n>(d: &mut Decoder<'_>, top: &Fields<'n>) -> Apps<'n> {
    let mut decoded = Apps { apps: Vec::new(), names: Vec::new() };
    let Some(field) = top.filled("apps") else {
        if top.misspelt("apps") {
            return decoded;
        }
        let at = top.get("apps").and_then(|field| field.key_at);
        d.found.error(at, "there is no app", "write apps: {chat: {script: app.js}}");
        return decoded;
    };
    if let Value::List(_) = field.node.value {
        let name = pm2_name(field.node).unwrap_or_else(|| "chat".into());
        let hint = format!("write the name as a key: apps: {{{name}: {{script: app.js}}}}");
        d.wrong(&field, "a map of names", &hint);
        return decoded;
    }
    let Some(entries) = d.named(&field) else {
        d.wrong(&field, "a map of names", "write apps: {chat: {script: app.js}}");
        return decoded;
    };
    if entries.is_empty() {
        d.found.error(field.at(), "there is no app", "write apps: {chat: {script: app.js}}");
    }
    if entries.len() > MOST {
        d.found.error(
            field.key_at,
            format!("{} apps, and at most {MOST} are allowed", entries.len()),
            "start another proxy for the rest",
        );
    }
    for (entry, field) in entries.into_iter().take(MOST) {
        check_name(d, &entry.key, &field);
        decoded.names.push((entry.key.clone(), field.clone()));
        decoded.apps.extend(app(d, &entry.key, &field));
    }
    decoded
}

/// The name in PM2's `apps: [{name: chat, ...}]`.
fn pm2_name(node: &Node) -> Option<String> {
    let Value::List(items) = &node.value else { return None };
    let Value::Map(entries) = &items.first()?.value else { return None };
    let entry = entries.iter().find(|entry| entry.key == "name")?;
    match &entry.node.value {
        Value::Scalar(scalar) if good_name(&scalar.text) => Some(scalar.text.clone()),
        _ => None,
    }
}

pub(super) fn good_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('-')
}

fn check_name(d: &mut Decoder<'_>, name: &str, field: &Field<'_>) {
    if !good_name(name) {
        let message = format!("{} cannot be the name of an app", shown(name));
        let hint = format!("use letters, digits, - and _, not more than {LONGEST_NAME}, and no - in front");
        d.found.error(field.key_at, message, hint);
    }
}

fn app(d: &mut Decoder<'_>, name: &str, field: &Field<'_>) -> Option<App> {
    if let Some(text) = field.text() {
        let hint = format!("write {name}: {{script: {text}}}, or {name}: {{command: {text}}}");
        d.wrong(field, "a map", &hint);
        return None;
    }
    if field.node.value == Value::Null {
        d.found.error(
            field.key_at,
            format!("{} says neither script nor command", field.path),
            "write script: app.js below it",
        );
        return None;
    }
    let fields = d.fields(field, &APP)?;
    if let Some(field) = fields.get("external") {
        return external(d, name, &fields, &field);
    }
    let cwd = cwd(d, &fields);
    let env = variables::env(d, &fields);
    let env_file = variables::env_file(d, &fields);
    let command = command::decode(d, &fields, &cwd, &env);
    let user = identity(d, &fields);
    let umask = umask(d, &fields);
    let policy = policy::policy(d, &fields);
    let rlimits = policy::rlimits(d, &fields);
    let ports = policy::ports(d, &fields);
    let affinity = affinity::affinity(d, &fields).unwrap_or_default();
    let balance = affinity::balance(d, &fields);
    let response_timeout = d.duration(&fields, "response_timeout").unwrap_or(RESPONSE_TIMEOUT);
    let protocol = protocol(d, &fields);
    let queue = queue(d, &fields);
    let command = command?;
    if let Some(user) = &user {
        check_access(d, &fields, &cwd, user, &command.words);
    }
    if policy.wait_ready && !command.preload {
        let at = fields.get("wait_ready").and_then(|field| field.at());
        let message =
            format!("{}.wait_ready needs preload: only then process.send('ready') reaches the proxy", fields.path);
        d.found.error(at, message, "remove wait_ready, or write preload: true for a Node.js program");
    }
    if protocol == Protocol::Http2 && command.preload {
        let at = fields.get("protocol").and_then(|field| field.at());
        let message = format!(
            "{}.protocol: http2 does not go with preload: that makes Node.js servers speak HTTP/1 on their sockets",
            fields.path
        );
        let hint = "write preload: false, and a command that listens at {socket}; or remove protocol";
        d.found.error(at, message, hint);
    }
    let preload = command.preload;
    if !preload {
        no_ports_without_preload(d, &fields);
    }
    let command = command.words;
    let given = Default::default();
    let spec = Spec { command, cwd, env, env_file, given, preload, user, umask, rlimits, ports, external: None };
    Some(App { name: name.to_owned(), spec, policy, affinity, balance, queue, response_timeout, protocol })
}

fn no_ports_without_preload(d: &mut Decoder<'_>, fields: &Fields<'_>) {
    for name in ["port", "ports"] {
        if let Some(field) = fields.get(name) {
            let message =
                format!("{} needs preload: only then the proxy has a hand in what the app listens on", field.path);
            d.found.error(field.key_at, message, "remove it, or write preload: true for a Node.js program");
        }
    }
}

/// What the workers speak on their sockets.
fn protocol(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Protocol {
    const HINTS: &[(&str, &str)] = &[
        ("http", "write http1"),
        ("http/1.1", "write http1"),
        ("h2c", "write http2"),
        ("h2", "write http2"),
        ("grpc", "write http2"),
    ];
    let Some(field) = fields.get("protocol") else { return Protocol::default() };
    match d.choice(&field, &["http1", "http2"], HINTS) {
        Some("http2") => Protocol::Http2,
        _ => Protocol::Http1,
    }
}

/// An app whose workers somebody else starts.
fn external(d: &mut Decoder<'_>, name: &str, fields: &Fields<'_>, field: &Field<'_>) -> Option<App> {
    let affinity = affinity::affinity(d, fields).unwrap_or_default();
    let balance = affinity::balance(d, fields);
    let response_timeout = d.duration(fields, "response_timeout").unwrap_or(RESPONSE_TIMEOUT);
    let protocol = protocol(d, fields);
    let queue = queue(d, fields);
    let (spec, policy) = super::external::decode(d, fields, field)?;
    Some(App { name: name.to_owned(), spec, policy, affinity, balance, queue, response_timeout, protocol })
}

fn cwd(d: &mut Decoder<'_>, fields: &Fields<'_>) -> PathBuf {
    let Some(field) = fields.get("cwd") else { return d.base.clone() };
    let Some(cwd) = d.file(&field) else { return d.base.clone() };
    let path = &field.path;
    let shown = cwd.display();
    let message = match d.machine.look(&cwd, Seen::Directory) {
        Seen::Directory => return cwd,
        Seen::Missing => format!("{path}: there is no directory {shown}"),
        Seen::Closed(why) => format!("{path}: {shown} cannot be entered: {why}"),
        _ => format!("{path}: {shown} is not a directory"),
    };
    d.found.error(field.at(), message, "a relative path begins at the directory of the configuration file");
    cwd
}

fn identity(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Identity> {
    let (user_field, group_field) = (fields.get("user"), fields.get("group"));
    let user_field = match (user_field, &group_field) {
        (Some(field), _) => field,
        (None, Some(group)) => {
            d.found.error(group.key_at, format!("{} needs a user", group.path), "write user too");
            return None;
        }
        (None, None) => return None,
    };
    let user = d.word(&user_field).and_then(|name| match d.machine.user(&name) {
        Ok(Some(user)) => Some(user),
        Ok(None) => {
            let message = format!("{}: there is no user {}", user_field.path, shown(&name));
            d.found.error(user_field.at(), message, "write the name or number of a user of this machine");
            None
        }
        Err(why) => {
            d.found.error(
                user_field.at(),
                format!("{}: looking up {} failed: {why}", user_field.path, shown(&name)),
                "",
            );
            None
        }
    });
    let group = group_field.and_then(|field| {
        let name = d.word(&field)?;
        match d.machine.group(&name) {
            Ok(Some(gid)) => Some(gid),
            Ok(None) => {
                let message = format!("{}: there is no group {}", field.path, shown(&name));
                d.found.error(field.at(), message, "write the name or number of a group of this machine");
                None
            }
            Err(why) => {
                d.found.error(field.at(), format!("{}: looking up {} failed: {why}", field.path, shown(&name)), "");
                None
            }
        }
    });
    let mut user = user?;
    user.gid = group.unwrap_or(user.gid);
    if d.machine.is_root() {
        return Some(user);
    }
    if (user.uid, user.gid) != d.machine.own() {
        let message = format!("{}: only root can start workers as another user", user_field.path);
        d.found.error(
            user_field.at(),
            message,
            format!("start the proxy as root or as {}, or remove the key", user.name),
        );
    }
    None
}

/// A common trap: a directory below /root or /home that the workers' user cannot enter.
fn check_access(d: &mut Decoder<'_>, fields: &Fields<'_>, cwd: &Path, user: &Identity, words: &[String]) {
    let what = fields.get("script").or_else(|| fields.get("command"));
    let at = what.as_ref().and_then(Field::at);
    let file = match fields.get("script") {
        Some(script) => script.text(),
        None => startable::script(words),
    };
    // A program need not be readable.
    let program = words.first().filter(|program| program.contains('/')).map(|program| cwd.join(program));
    let dir = fields.get("cwd").map_or(fields.at, |field| field.at());
    let paths = [
        Some((dir, cwd.to_owned())),
        file.map(|file| (at, cwd.join(file))),
        program.and_then(|program| Some((at, program.parent()?.to_owned()))),
    ];
    for (at, path) in paths.into_iter().flatten() {
        if let Some(Barrier { at: closed, has_list }) = d.machine.barrier(&path, user) {
            let message = format!("user {} cannot reach {}", user.name, path.display());
            let hint = format!("permissions of {} bar the way", closed.display());
            return match has_list {
                true => d.found.warn(at, message, format!("{hint}, unless its access control list opens it")),
                false => d.found.error(at, message, hint),
            };
        }
    }
}

/// Octal digits, however they are written.
fn umask(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<u32> {
    let field = fields.get("umask")?;
    let digits = field.scalar().map(|scalar| scalar.text.strip_prefix("0o").unwrap_or(&scalar.text));
    let octal =
        |digits: &str| digits.bytes().all(|b| (b'0'..=b'7').contains(&b)).then(|| u32::from_str_radix(digits, 8).ok());
    match digits.and_then(octal).flatten().filter(|mask| *mask <= 0o777) {
        Some(mask) => Some(mask),
        None => {
            d.wrong(&field, "octal digits from 000 to 777", "write \"027\"");
            None
        }
    }
}

fn queue(d: &mut Decoder<'_>, fields: &Fields<'_>) -> QueuePolicy {
    let mut policy = QueuePolicy::default();
    let narrow = |count| u32::try_from(count).ok();
    policy.max_concurrency = d.integer(fields, "max_concurrency").and_then(narrow);
    let Some(field) = fields.filled("queue") else { return policy };
    let Some(bounds) = d.fields(&field, &QUEUE) else { return policy };
    policy.max = d.integer(&bounds, "max").and_then(narrow).unwrap_or(policy.max);
    policy.timeout = d.duration(&bounds, "timeout").unwrap_or(policy.timeout);
    policy
}
