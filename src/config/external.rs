//! `apps.NAME.external`: workers that somebody else starts.

use super::App;
use super::error::shown;
use super::fields::{Decoder, Field, Fields, tidy};
use super::limits::LONGEST_SOCKET;
use super::machine::Seen;
use super::policy;
use super::schema::EXTERNAL;
use super::yaml::Value;
use crate::fleet::policy::Policy;
use crate::process::spec::{External, Spec};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const WORKERS: u16 = 16;
/// Most users of one app.
const USERS: usize = 64;
/// What says how workers are started, replaced and ended: nobody does that here.
const USELESS: &[&str] = &[
    "script",
    "args",
    "interpreter",
    "node_args",
    "command",
    "cwd",
    "env",
    "env_file",
    "user",
    "group",
    "umask",
    "preload",
    "instances",
    "stop_timeout",
    "stop_signal",
    "min_ready",
    "surge",
    "backoff",
    "crash_loop",
    "scaling",
    "max_memory_restart",
    "max_requests",
    "max_lifetime",
    "rlimits",
];

pub(super) fn decode(d: &mut Decoder<'_>, app: &Fields<'_>, field: &Field<'_>) -> Option<(Spec, Policy)> {
    if let Some(text) = field.text() {
        d.wrong(field, "a map", &format!("write external: {{directory: {text}}}"));
        return None;
    }
    for name in USELESS {
        if let Some(field) = app.get(name) {
            let message = format!("{} does not go with external", field.path);
            d.found.error(field.key_at, message, "remove it: whoever starts the workers decides that");
        }
    }
    let fields = d.fields(field, &EXTERNAL)?;
    let users = users(d, &fields);
    let workers = d.integer(&fields, "workers").and_then(|count| u16::try_from(count).ok()).unwrap_or(WORKERS);
    let policy = Policy { instances: 1, max_instances: workers, external: true, ..policy::policy(d, app) };
    let directory = directory(d, &fields)?;
    let spec = Spec {
        command: Vec::new(),
        cwd: "/".into(),
        env: Vec::new(),
        env_file: Vec::new(),
        given: Default::default(),
        preload: true,
        user: None,
        umask: None,
        rlimits: Default::default(),
        ports: policy::ports(d, app),
        external: Some(External { directory, users }),
    };
    Some((spec, policy))
}

fn directory(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<PathBuf> {
    let Some(field) = fields.get("directory") else {
        if !fields.misspelt("directory") {
            let message = format!("{} says no directory", fields.path);
            d.found.error(fields.at, message, "write directory: /run/chat, which the workers' side shares");
        }
        return None;
    };
    let text = d.word(&field)?;
    if !text.starts_with('/') {
        let message = format!("{} must be an absolute path, not {}", field.path, shown(&text));
        d.found.error(field.at(), message, "write /run/chat");
        return None;
    }
    let dir = tidy(Path::new(&text));
    let bytes = dir.as_os_str().as_bytes().len() + crate::process::LONGEST_SHARED.len();
    if bytes > LONGEST_SOCKET {
        let message =
            format!("the paths of sockets in {} would be {} bytes too long", dir.display(), bytes - LONGEST_SOCKET);
        let hint = format!("shorten directory to {} bytes", LONGEST_SOCKET - crate::process::LONGEST_SHARED.len());
        d.found.error(field.at(), message, hint);
        return None;
    }
    let message = match d.machine.look(&dir, Seen::Directory) {
        Seen::Directory | Seen::Missing => return Some(dir),
        Seen::Closed(why) => format!("{} cannot be entered: {why}", field.path),
        Seen::File { .. } | Seen::Other => format!("{}: {} is not a directory", field.path, dir.display()),
    };
    d.found.error(field.at(), message, "write a directory that the proxy and the workers share");
    None
}

/// Numbers need no name here: the workers may live in another image.
fn users(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Vec<u32> {
    let own = vec![d.machine.own().0];
    let Some(field) = fields.filled("users") else { return own };
    let items = match field.node.value {
        Value::List(_) => field.items().unwrap_or_default(),
        _ => vec![field.clone()],
    };
    if items.is_empty() || items.len() > USERS {
        let expected = format!("a list of 1 to {USERS} users");
        d.wrong(&field, &expected, "write users: [1001], or leave it out for the proxy's user");
        return own;
    }
    let mut users = Vec::new();
    for item in items {
        let Some(name) = d.word(&item) else { continue };
        let uid = match name.parse::<u32>() {
            Ok(uid) => Ok(Some(uid)),
            Err(_) => d.machine.user(&name).map(|user| user.map(|user| user.uid)),
        };
        match uid {
            Ok(Some(uid)) if !users.contains(&uid) => users.push(uid),
            Ok(Some(_)) => {}
            Ok(None) => {
                let message = format!("{}: there is no user {}", item.path, shown(&name));
                d.found.error(item.at(), message, "write the number of the user that the workers run as");
            }
            Err(why) => {
                let message = format!("{}: looking up {} failed: {why}", item.path, shown(&name));
                d.found.error(item.at(), message, "write the number of the user");
            }
        }
    }
    users
}

/// Who dials in is known by the directory it dials in: each app needs its own.
///
/// `names`: where each app stands in the file.
pub(super) fn check(d: &mut Decoder<'_>, apps: &[App], names: &[(String, Field<'_>)], runtime_dir: &Path) {
    let directory = |app: &App| app.spec.external.as_ref().map(|external| external.directory.clone());
    let mut seen: Vec<(PathBuf, &str)> = Vec::new();
    for app in apps {
        let Some(dir) = directory(app) else { continue };
        let at = names.iter().find(|(name, _)| *name == app.name).and_then(|(_, field)| field.key_at);
        let shown = dir.display().to_string();
        if dir.starts_with(runtime_dir) || runtime_dir.starts_with(&dir) {
            let message =
                format!("apps.{}.external.directory {shown} and runtime_dir lie within one another", app.name);
            d.found.error(at, message, "runtime_dir belongs to the proxy alone: write another directory");
        }
        if let Some((_, other)) = seen.iter().find(|(other, _)| *other == dir) {
            let message = format!("apps.{} and apps.{other} share the directory {shown}", app.name);
            d.found.error(at, message, "write a directory for each app, as in /run/shared/chat");
        }
        seen.push((dir, &app.name));
    }
}
