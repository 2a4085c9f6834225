//! `error_pages`: what clients see of the proxy's own errors.

use super::error::shown;
use super::fields::{Decoder, Field, Fields};
use super::machine::Seen;
use crate::gateway::{ErrorPage, ErrorPages, Statuses, content_type};
use bytes::Bytes;
use std::os::unix::ffi::OsStrExt;

/// Most statuses, and most files of one.
const MOST: usize = 64;
const MOST_FILES: usize = 3;
/// Largest page, in bytes: they are kept in memory.
const LARGEST: usize = 1 << 20;

pub(super) fn decode(d: &mut Decoder<'_>, top: &Fields<'_>) -> ErrorPages {
    let Some(field) = top.filled("error_pages") else { return ErrorPages::default() };
    let Some(named) = d.named(&field) else {
        d.wrong(&field, "a map", "write {502: 502.html, 5xx: error.html}");
        return ErrorPages::default();
    };
    if named.len() > MOST {
        let message = format!("{} statuses, and at most {MOST} are allowed", named.len());
        d.found.error(field.key_at, message, "4xx and 5xx stand for all that begin with it");
    }
    let mut pages = Vec::new();
    for (entry, field) in named.into_iter().take(MOST) {
        let Some(statuses) = statuses(&entry.key) else {
            let message = format!("{} is no status of an error", shown(&entry.key));
            d.found.error(entry.key_at, message, "write 400 to 599, or 4xx or 5xx");
            continue;
        };
        let files = field.items().unwrap_or_else(|| vec![field.clone()]);
        if files.is_empty() || files.len() > MOST_FILES {
            d.wrong(
                &field,
                "a file, or a list of files",
                &format!("write 1 to {MOST_FILES}, as in [502.html, 502.json]"),
            );
            continue;
        }
        for file in files {
            if let Some((content_type, body)) = read_page(d, &file) {
                pages.push(ErrorPage { statuses, content_type, body });
            }
        }
    }
    ErrorPages::new(pages)
}

fn statuses(key: &str) -> Option<Statuses> {
    match key {
        "4xx" | "4XX" => Some(Statuses::All(4)),
        "5xx" | "5XX" => Some(Statuses::All(5)),
        key => key.parse().ok().filter(|status| (400..600).contains(status)).map(Statuses::Only),
    }
}

/// A file that is sent as it is, with its media type.
pub(super) fn read_page(d: &mut Decoder<'_>, field: &Field<'_>) -> Option<(String, Bytes)> {
    let path = d.file(field)?;
    let what = match d.machine.look(&path, Seen::File { executable: false }) {
        Seen::File { .. } => {
            // An imagined one is empty.
            let body = d.machine.read(&path, LARGEST + 1).unwrap_or_default();
            if body.len() <= LARGEST {
                return Some((content_type(path.as_os_str().as_bytes()), body.into()));
            }
            format!("is larger than {LARGEST} bytes")
        }
        Seen::Missing => "is not there".to_owned(),
        Seen::Closed(why) => format!("cannot be read: {why}"),
        Seen::Directory | Seen::Other => "is not a file".to_owned(),
    };
    let hint = "relative paths begin at the directory of the configuration";
    d.found.error(field.at(), format!("{}: {} {what}", field.path, path.display()), hint);
    None
}
