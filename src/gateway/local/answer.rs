//! An answer of the proxy's own: a head, and content from memory or from a file.

use crate::gateway::request::error_pages::{ErrorPages, Reader};
use crate::gateway::request::error_response::ErrorResponse;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use rustix::io::{Errno, ReadWriteFlags};
use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// What is read at once of a file, in bytes.
const PIECE: usize = 64 << 10;

pub(in crate::gateway) struct LocalAnswer {
    pub(in crate::gateway) status: u16,
    pub(in crate::gateway) fields: Vec<(&'static str, Cow<'static, [u8]>)>,
    pub(in crate::gateway) content: Content,
}

pub(in crate::gateway) enum Content {
    /// None can be, by the status: no length is told either.
    None,
    Bytes(Bytes),
    /// From the first byte to before the last.
    File(Arc<File>, u64, u64),
}

impl LocalAnswer {
    pub(in crate::gateway) fn new(status: u16, content: Content) -> LocalAnswer {
        LocalAnswer { status, fields: Vec::with_capacity(8), content }
    }

    /// The page for an error.
    pub(in crate::gateway) fn error(error: &ErrorResponse, pages: &ErrorPages, reader: &Reader<'_>) -> LocalAnswer {
        let page = pages.page(error, reader);
        let mut answer = LocalAnswer::new(error.status, Content::Bytes(page.body));
        answer.field("Content-Type", page.content_type.as_bytes().to_vec());
        answer.field("Cache-Control", &b"no-store"[..]);
        if let Some(seconds) = error.retry_after {
            answer.field("Retry-After", seconds.to_string().into_bytes());
        }
        answer
    }

    /// Adds a field. The value has no control characters: configuration and requests are checked for them.
    pub(in crate::gateway) fn field(&mut self, name: &'static str, value: impl Into<Cow<'static, [u8]>>) {
        self.fields.push((name, value.into()));
    }

    /// The head as an HTTP/1.1 worker would write it.
    pub(in crate::gateway) fn head(&self) -> BytesMut {
        let reason = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
        let mut head = BytesMut::with_capacity(256);
        head.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", self.status).as_bytes());
        for (name, value) in &self.fields {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
        if let Some(length) = self.content.len() {
            head.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

impl Content {
    /// Bytes still to come; `None` where none can be.
    pub(in crate::gateway) fn len(&self) -> Option<u64> {
        match self {
            Content::None => None,
            Content::Bytes(bytes) => Some(bytes.len() as u64),
            Content::File(_, at, end) => Some(end - at),
        }
    }

    /// The next bytes, at most `most`; none at the end, or where a file has become shorter.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(in crate::gateway) async fn next(&mut self, most: usize) -> io::Result<Bytes> {
        match self {
            Content::None => Ok(Bytes::new()),
            Content::Bytes(bytes) => Ok(bytes.split_to(bytes.len().min(most))),
            Content::File(file, at, end) => {
                let wanted = usize::try_from(*end - *at).unwrap_or(PIECE).min(PIECE).min(most);
                let piece = read(file, *at, wanted).await?;
                *at += piece.len() as u64;
                Ok(piece)
            }
        }
    }
}

/// Reads what is in the page cache at once, and all else on a thread that may wait for a disk.
async fn read(file: &Arc<File>, at: u64, wanted: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; wanted];
    let mut parts = [io::IoSliceMut::new(&mut buffer)];
    match rustix::io::preadv2(file, &mut parts, at, ReadWriteFlags::NOWAIT) {
        Ok(len) if len > 0 || wanted == 0 => {
            buffer.truncate(len);
            return Ok(buffer.into());
        }
        // The end, a page that is not there, or a file system that cannot tell.
        Ok(_) | Err(Errno::AGAIN | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let file = file.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let len = file.read_at(&mut buffer, at)?;
        buffer.truncate(len);
        Ok(buffer.into())
    });
    reading.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
