//! `limits`, `runtime_dir` and `state_dir`.

use super::App;
use super::error::shown;
use super::fields::{Decoder, Fields, tidy};
use super::machine::Seen;
use super::schema::LIMITS;
use crate::gateway::Limits;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub(super) fn decode(d: &mut Decoder<'_>, top: &Fields<'_>) -> Limits {
    let default = Limits::default();
    let Some(field) = top.filled("limits") else { return default };
    let Some(fields) = d.fields(&field, &LIMITS) else { return default };
    let head_size = d.size(&fields, "head_size").flatten().and_then(|bytes| usize::try_from(bytes).ok());
    let connections = d.integer(&fields, "connections").and_then(|count| usize::try_from(count).ok());
    Limits {
        head_bytes: head_size.unwrap_or(default.head_bytes),
        head_timeout: d.duration(&fields, "head_timeout").unwrap_or(default.head_timeout),
        keepalive_timeout: d.duration(&fields, "keepalive_timeout").unwrap_or(default.keepalive_timeout),
        body_bytes: d.size(&fields, "body_size").unwrap_or(default.body_bytes),
        body_timeout: d.duration(&fields, "body_timeout").unwrap_or(default.body_timeout),
        body_rate: d.integer(&fields, "body_rate").unwrap_or(default.body_rate),
        tunnel_idle_timeout: d.duration(&fields, "tunnel_idle_timeout").unwrap_or(default.tunnel_idle_timeout),
        connections: connections.unwrap_or(default.connections),
    }
}

/// `runtime_dir`, or where it is when nothing is said. It need not be there yet.
pub(super) fn runtime_dir(d: &mut Decoder<'_>, top: &Fields<'_>) -> PathBuf {
    let default = d.machine.runtime_dir();
    let Some(field) = top.get("runtime_dir") else { return default };
    let Some(text) = d.word(&field) else { return default };
    if !text.starts_with('/') {
        let message = format!("runtime_dir must be an absolute path, not {}", shown(&text));
        d.found.error(field.at(), message, "write /run/pingora-unix-proxy");
        return default;
    }
    let dir = tidy(Path::new(&text));
    let message = match d.machine.look(&dir, Seen::Directory) {
        Seen::Directory | Seen::Missing => return dir,
        Seen::Closed(why) => format!("runtime_dir {} cannot be entered: {why}", shown(&text)),
        Seen::File { .. } | Seen::Other => format!("runtime_dir {} is not a directory", shown(&text)),
    };
    d.found.error(field.at(), message, "write a directory that belongs to the proxy alone");
    dir
}

/// Beside the runtime directory, for a proxy without a home.
fn sibling(runtime_dir: &Path) -> PathBuf {
    let mut name = runtime_dir.as_os_str().to_owned();
    name.push("-state");
    PathBuf::from(name)
}

/// `state_dir`, or where it is when nothing is said. It need not be there yet.
pub(super) fn state_dir(d: &mut Decoder<'_>, top: &Fields<'_>, runtime_dir: &Path) -> PathBuf {
    let default = d.machine.state_dir().unwrap_or_else(|| sibling(runtime_dir));
    let Some(field) = top.get("state_dir") else { return default };
    let Some(text) = d.word(&field) else { return default };
    let dir = tidy(Path::new(&text));
    let message = if !text.starts_with('/') {
        format!("state_dir must be an absolute path, not {}", shown(&text))
    } else if dir.starts_with(runtime_dir) {
        format!("state_dir {} lies in runtime_dir, which goes with the proxy", shown(&text))
    } else {
        match d.machine.look(&dir, Seen::Directory) {
            Seen::Directory | Seen::Missing => return dir,
            Seen::Closed(why) => format!("state_dir {} cannot be entered: {why}", shown(&text)),
            Seen::File { .. } | Seen::Other => format!("state_dir {} is not a directory", shown(&text)),
        }
    };
    d.found.error(field.at(), message, "write /var/lib/pingora-unix-proxy");
    default
}

/// Linux takes socket paths of at most 107 bytes (`sun_path`, unix(7)).
pub(super) const LONGEST_SOCKET: usize = 107;
/// `/workers/APP.SLOT.INCARNATION-PORT.sock`, without APP, with the longest numbers.
const AROUND_NAME: usize = "/workers/.65535.4294967295-65535.sock".len();

/// Every socket that the proxy and its workers may bind below `dir` must have a path that fits.
pub(super) fn check_socket_paths(d: &mut Decoder<'_>, top: &Fields<'_>, dir: &Path, apps: &[App]) {
    let dir_bytes = dir.as_os_str().as_bytes().len();
    let Some(longest) = apps.iter().max_by_key(|app| app.name.len()) else { return };
    let bytes = dir_bytes + AROUND_NAME + longest.name.len();
    if bytes <= LONGEST_SOCKET {
        return;
    }
    let over = bytes - LONGEST_SOCKET;
    let message = format!(
        "the paths of worker sockets in {} would be {over} bytes too long for app {}",
        dir.display(),
        shown(&longest.name)
    );
    let hint = format!("shorten runtime_dir or the name, together to {} bytes", LONGEST_SOCKET - AROUND_NAME);
    let at = top.get("runtime_dir").map(|field| field.at());
    d.found.error(at.unwrap_or_else(|| top.get("apps").and_then(|field| field.key_at)), message, hint);
}
