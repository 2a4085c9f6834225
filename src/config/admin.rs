//! `admin` and `metrics`: where the proxy takes commands, and where it is watched.

use super::error::shown;
use super::fields::{Decoder, Fields};
use super::limits::LONGEST_SOCKET;
use super::listeners::advice;
use super::machine::Seen;
use super::schema::{ADMIN, Section};
use crate::process::ADMIN_SOCKET;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The socket for commands; `None` when there is to be none.
pub(super) fn socket(d: &mut Decoder<'_>, top: &Fields<'_>, runtime_dir: &Path) -> Option<PathBuf> {
    let default = Some(runtime_dir.join(ADMIN_SOCKET));
    let Some(field) = top.filled("admin") else { return default };
    if let Some(scalar) = field.scalar() {
        let word = if matches!(scalar.text.as_str(), "off" | "no" | "none" | "false") { "off" } else { "default" };
        d.wrong(&field, "a map", &format!("write {{socket: {word}}}"));
        return default;
    }
    let Some(fields) = d.fields(&field, &ADMIN) else { return default };
    let Some(field) = fields.get("socket") else { return default };
    // Where there is no list of words, YAML may read some of them as truth values.
    match field.scalar().map(|scalar| scalar.text.as_str()) {
        Some("default") => return default,
        Some("off") => return None,
        Some("on" | "true" | "yes") => {
            d.wrong(&field, "default, off or a path", "write default");
            return default;
        }
        Some("none" | "false" | "no") => {
            d.wrong(&field, "default, off or a path", "write off");
            return default;
        }
        _ => {}
    }
    let path = d.file(&field)?;
    let (bytes, text) = (path.as_os_str().as_bytes().len(), shown(&path.display().to_string()));
    let dir = path.parent().unwrap_or(Path::new("/"));
    if bytes > LONGEST_SOCKET {
        let message = format!("{}: {text} has {bytes} bytes", field.path);
        d.found.error(field.at(), message, format!("Linux takes {LONGEST_SOCKET} for a socket; write a shorter one"));
    } else if d.machine.look(&path, Seen::Missing) == Seen::Directory {
        d.found.error(field.at(), format!("{}: {text} is a directory", field.path), "write the path of a socket in it");
    } else if dir != runtime_dir && d.machine.look(dir, Seen::Directory) != Seen::Directory {
        let message = format!("{}: there is no directory {}", field.path, shown(&dir.display().to_string()));
        d.found.error(field.at(), message, "make it, or write default");
    }
    Some(path)
}

/// Where something of the proxy's own is served on TCP; `None` when it is not. `others` are addresses that are taken,
/// with their keys.
pub(super) fn address(
    d: &mut Decoder<'_>,
    top: &Fields<'_>,
    section: &'static Section,
    example: &str,
    others: &[(&str, SocketAddr)],
) -> Option<SocketAddr> {
    let field = top.filled(section.name)?;
    let fields = d.fields(&field, section)?;
    let Some(field) = fields.get("address") else {
        let message = format!("{} has no address", section.name);
        d.found.error(field.at(), message, format!("write {{address: \"{example}\"}}"));
        return None;
    };
    let Some(scalar) = field.scalar() else {
        d.wrong(&field, "IP:PORT", &format!("write \"{example}\""));
        return None;
    };
    let Ok(address) = scalar.text.parse::<SocketAddr>() else {
        let hint = advice(&scalar.text);
        d.wrong(&field, "IP:PORT", &hint);
        return None;
    };
    let both = |other: &SocketAddr| {
        let any = other.ip().is_unspecified() || address.ip().is_unspecified();
        other.port() == address.port() && (other.ip() == address.ip() || any)
    };
    if address.port() != 0
        && let Some((key, taken)) = others.iter().find(|(_, other)| both(other))
    {
        let message = format!("{}: {address} is an address of {key} ({taken})", field.path);
        d.found.error(field.at(), message, format!("{} needs an address of its own; write another port", section.name));
    }
    Some(address)
}
