//! Files of a directory. Nothing outside it is opened, whatever a path or a link says: the kernel resolves names beneath
//! the directory (openat2(2), `RESOLVE_BENEATH`).

use super::answer::{Content, LocalAnswer};
use crate::gateway::request::error_pages::Reader;
use crate::gateway::request::error_response::ErrorResponse;
use crate::gateway::request::file_request::{self, Encoding, FileFacts, Selected};
use crate::gateway::request::path;
use crate::gateway::request::plan::HeaderSource;
use crate::gateway::request::request_id::RequestId;
use crate::gateway::request::route::{Files, Route};
use crate::gateway::request::route_table::Asked;
use crate::gateway::rules::Rules;
use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat2, statx};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How often a name is resolved anew when links change meanwhile.
const TRIES: usize = 4;

/// What was found under a name.
enum Found {
    File(Opened),
    /// A directory that was asked for without a slash at its end, and has an index.
    Directory,
}

struct Opened {
    file: OwnedFd,
    facts: FileFacts,
    encoding: Option<Encoding>,
}

/// Where a file is looked for.
#[derive(Clone)]
struct Wanted {
    directory: Arc<Path>,
    /// Below it; empty, or with a slash at its end, for a directory.
    name: Vec<u8>,
    index: Arc<str>,
    encodings: Vec<Encoding>,
}

/// The answer from a directory; `None` where there is no such file.
pub(super) async fn answer<'a, H: HeaderSource<'a> + Copy>(
    rules: &Rules,
    files: &Files,
    route: &Route,
    asked: &Asked<'a, H>,
    id: &RequestId,
) -> Option<LocalAnswer> {
    let name = path::file_name(&route.path_below(asked.target))?;
    let whole =
        if name.is_empty() || name.ends_with(b"/") { [&name, files.index.as_bytes()].concat() } else { name.clone() };
    let content_type = file_request::content_type(&whole);
    let has_variants = file_request::is_compressible(&content_type);
    let encodings = if has_variants { file_request::encodings(asked.headers) } else { Vec::new() };
    let wanted =
        Wanted { directory: files.directory.as_path().into(), name, index: files.index.as_str().into(), encodings };
    let opened = match find(wanted).await? {
        Found::File(opened) => opened,
        Found::Directory => return Some(with_slash(asked.target)),
    };
    let etag = opened.facts.etag(opened.encoding);
    let is_get = asked.method == b"GET";
    let size = opened.facts.size;
    let file = Arc::new(File::from(opened.file));
    let mut answer = match file_request::select(&opened.facts, &etag, asked.headers, is_get) {
        Selected::Whole => LocalAnswer::new(200, Content::File(file, 0, size)),
        Selected::Part(from, to) => {
            let mut answer = LocalAnswer::new(206, Content::File(file, from, to));
            answer.field("Content-Range", format!("bytes {from}-{}/{size}", to - 1).into_bytes());
            answer
        }
        Selected::NotModified => LocalAnswer::new(304, Content::None),
        Selected::Failed => {
            let error = ErrorResponse::new(412, "The file is another one by now.");
            return Some(LocalAnswer::error(&error, &rules.error_pages, &Reader::of(asked.headers, id)));
        }
        Selected::OutOfRange => {
            let mut answer = LocalAnswer::new(416, Content::Bytes(Bytes::new()));
            answer.field("Content-Range", format!("bytes */{size}").into_bytes());
            return Some(answer);
        }
    };
    if answer.status != 304 {
        answer.field("Content-Type", content_type.into_bytes());
        if let Some(encoding) = opened.encoding {
            answer.field("Content-Encoding", encoding.name().as_bytes());
        }
        answer.field("Accept-Ranges", &b"bytes"[..]);
        answer.field("Last-Modified", httpdate::fmt_http_date(opened.facts.modified).into_bytes());
    }
    answer.field("ETag", etag.into_bytes());
    answer.field("Date", httpdate::fmt_http_date(SystemTime::now()).into_bytes());
    if has_variants {
        answer.field("Vary", &b"Accept-Encoding"[..]);
    }
    if let Some(cache_control) = &files.cache_control {
        answer.field("Cache-Control", cache_control.clone().into_bytes());
    }
    Some(answer)
}

/// A directory's address ends in a slash, else the links in its index lead elsewhere.
fn with_slash(target: &[u8]) -> LocalAnswer {
    let (path, query) = path::split(target);
    let mut location = path::in_location(&path::normal(path));
    location.push(b'/');
    location.extend_from_slice(&path::in_location(query));
    let mut answer = LocalAnswer::new(308, Content::Bytes(Bytes::new()));
    answer.field("Location", location);
    answer
}

/// By what the kernel has in its caches at once, else on a thread that may wait for a disk.
async fn find(wanted: Wanted) -> Option<Found> {
    match look(&wanted, ResolveFlags::CACHED) {
        Err(Errno::AGAIN) => {}
        found => return seen(found),
    }
    let looking = tokio::task::spawn_blocking(move || {
        let mut found = Err(Errno::AGAIN);
        for _ in 0..TRIES {
            found = look(&wanted, ResolveFlags::empty());
            if !matches!(found, Err(Errno::AGAIN)) {
                break;
            }
        }
        found
    });
    seen(looking.await.unwrap_or(Err(Errno::IO)))
}

fn seen(found: Result<Option<Found>, Errno>) -> Option<Found> {
    match found {
        Ok(found) => found,
        // A link that leads out, a name that is too long, a file that is not for us: for a client there is none.
        Err(
            Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG | Errno::ACCESS | Errno::NXIO,
        ) => None,
        Err(error) => {
            log::warn!("a file cannot be served: {error}");
            None
        }
    }
}

/// `how` is added to the rules by which names are resolved.
fn look(wanted: &Wanted, how: ResolveFlags) -> Result<Option<Found>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat2(CWD, &*wanted.directory, flags, Mode::empty(), how)?;
    let names_directory = wanted.name.is_empty() || wanted.name.ends_with(b"/");
    let mut name = wanted.name.clone();
    if names_directory {
        name.extend_from_slice(wanted.index.as_bytes());
    }
    let (file, facts) = match open(&directory, &name, how)? {
        Some(opened) => opened,
        None if names_directory => return Ok(None),
        None => {
            name.push(b'/');
            name.extend_from_slice(wanted.index.as_bytes());
            return Ok(open(&directory, &name, how)?.map(|_| Found::Directory));
        }
    };
    for encoding in &wanted.encodings {
        let variant = [&name, encoding.suffix().as_bytes()].concat();
        match open(&directory, &variant, how) {
            Ok(Some((file, facts))) => return Ok(Some(Found::File(Opened { file, facts, encoding: Some(*encoding) }))),
            Err(Errno::AGAIN) => return Err(Errno::AGAIN),
            _ => {}
        }
    }
    Ok(Some(Found::File(Opened { file, facts, encoding: None })))
}

/// Opens a regular file; `None` for a directory, an error as if it were not there for all else.
fn open(directory: &impl AsFd, name: &[u8], how: ResolveFlags) -> Result<Option<(OwnedFd, FileFacts)>, Errno> {
    // A FIFO is not waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let how = how | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(directory, OsStr::from_bytes(name), flags, Mode::empty(), how)?;
    let stat = statx(&file, "", AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::BASIC_STATS)?;
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => {}
        FileType::Directory => return Ok(None),
        _ => return Err(Errno::NOENT),
    }
    let since = Duration::new(u64::try_from(stat.stx_mtime.tv_sec).unwrap_or(0), stat.stx_mtime.tv_nsec);
    Ok(Some((file, FileFacts { size: stat.stx_size, modified: SystemTime::UNIX_EPOCH + since })))
}
