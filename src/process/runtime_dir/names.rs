//! Names of files in the runtime directory.

use super::{AppUser, Error};
use crate::worker::{Incarnation, Slot, WorkerId};
use std::path::{Path, PathBuf};

/// Bytes of a path that `sockaddr_un` holds beside its terminating zero (unix(7)).
const SOCKET_PATH_LIMIT: usize = 107;

pub(super) fn stem(id: &WorkerId) -> String {
    format!("{}.{}.{}", id.app, id.slot, id.incarnation)
}

/// A control socket that did not get as far as its name.
pub(super) fn is_half_bound(path: &Path) -> bool {
    file_name(path).is_some_and(|name| name.starts_with("control.") && name.ends_with(".new"))
}

/// `APP.SLOT.INC` of a name that begins so.
pub(super) fn stem_of(name: &str) -> Option<&str> {
    let second = name.match_indices('.').nth(1)?.0;
    let rest = name.get(second + 1..)?;
    let number = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    name.get(..second + 1 + number)
}

/// `APP.SLOT.INC` and whatever follows.
pub(super) fn parse_stem(name: &str) -> Option<(&str, u32)> {
    let mut parts = name.split('.');
    let (app, _slot, incarnation) = (parts.next()?, parts.next()?.parse::<u16>().ok()?, parts.next()?);
    Some((app, incarnation.split('-').next()?.parse().ok()?))
}

pub(super) fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

pub(super) fn check_names(path: &Path, app_user: &AppUser) -> Result<(), Error> {
    let name = &app_user.app;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        return Err(Error::AppName { name: name.clone() });
    }
    let longest = longest_socket(path, name, app_user.user.is_some());
    let length = longest.as_os_str().len();
    if length > SOCKET_PATH_LIMIT {
        return Err(Error::PathTooLong { path: longest, length, limit: SOCKET_PATH_LIMIT });
    }
    Ok(())
}

/// The longest path that a socket of this app can get: high numbers, and a second server's port.
fn longest_socket(dir: &Path, app: &str, own_user: bool) -> PathBuf {
    let id = WorkerId { app: app.into(), slot: Slot(9999), incarnation: Incarnation(9_999_999) };
    let dir = dir.join("workers");
    let dir = if own_user { dir.join(app) } else { dir };
    dir.join(format!("{}-65535.sock", stem(&id)))
}
