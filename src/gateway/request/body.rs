//! A request's body on its way to the worker: counted, limited and framed anew, so that the worker gets no framing
//! that another reader could read differently. Chunk extensions are dropped, and of trailers all but harmless ones.

use super::fields::passes_as_request_trailer;
use crate::gateway::http1::body::{BodyScanner, Piece};
use crate::gateway::http1::{Body, Reject};
use bytes::{Buf, BytesMut};

/// Bytes of a trailer section that are kept to be passed on.
const TRAILER_BYTES: usize = 8 << 10;

/// Why a body cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum BodyFault {
    /// More than `limits.body_size`.
    TooLong,
    Framing(&'static str),
}

/// Writes one body for the worker.
#[derive(Debug)]
pub(in crate::gateway) struct BodyWriter {
    chunked: bool,
    content: u64,
    limit: Option<u64>,
    ended: bool,
}

impl BodyWriter {
    pub(in crate::gateway) fn new(body: Body, limit: Option<u64>) -> BodyWriter {
        let ended = matches!(body, Body::None | Body::Length(0));
        BodyWriter { chunked: body == Body::Chunked, content: 0, limit, ended }
    }

    /// Content bytes so far.
    pub(in crate::gateway) fn content(&self) -> u64 {
        self.content
    }

    /// Nothing more is to be written.
    pub(in crate::gateway) fn has_ended(&self) -> bool {
        self.ended
    }

    /// # Errors
    /// `limits.body_size` is exceeded.
    pub(in crate::gateway) fn write(&mut self, content: &[u8], out: &mut BytesMut) -> Result<(), BodyFault> {
        if content.is_empty() {
            return Ok(());
        }
        self.count(content.len())?;
        if self.chunked {
            chunk_size(out, content.len());
            out.extend_from_slice(content);
            out.extend_from_slice(b"\r\n");
        } else {
            out.extend_from_slice(content);
        }
        Ok(())
    }

    /// The same for content that is at the start of a buffer of its own; not copied where framing needs none.
    fn write_front(&mut self, from: &mut BytesMut, len: usize, out: &mut BytesMut) -> Result<(), BodyFault> {
        if self.chunked || !out.is_empty() {
            self.write(&from[..len], out)?;
            from.advance(len);
        } else {
            self.count(len)?;
            *out = from.split_to(len);
        }
        Ok(())
    }

    fn count(&mut self, len: usize) -> Result<(), BodyFault> {
        self.content = self.content.saturating_add(len as u64);
        if self.limit.is_some_and(|limit| self.content > limit) { Err(BodyFault::TooLong) } else { Ok(()) }
    }

    /// Ends the body; `trailers` are whole field lines.
    pub(in crate::gateway) fn end(&mut self, trailers: &[u8], out: &mut BytesMut) {
        if !std::mem::replace(&mut self.ended, true) && self.chunked {
            out.extend_from_slice(b"0\r\n");
            out.extend_from_slice(trailers);
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn chunk_size(out: &mut BytesMut, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for place in (0..nibbles).rev() {
        out.extend_from_slice(&[DIGITS[size >> (4 * place) & 15]]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Reads an HTTP/1 body out of what came from the client, and writes it for the worker.
#[derive(Debug)]
pub(in crate::gateway) struct Http1Body {
    scanner: BodyScanner,
    writer: BodyWriter,
    trailers: Vec<u8>,
}

impl Http1Body {
    pub(in crate::gateway) fn new(body: Body, limit: Option<u64>) -> Http1Body {
        Http1Body { scanner: BodyScanner::new(body), writer: BodyWriter::new(body, limit), trailers: Vec::new() }
    }

    /// The client has sent all of it.
    pub(in crate::gateway) fn is_done(&self) -> bool {
        self.scanner.is_done()
    }

    /// Content bytes so far.
    pub(in crate::gateway) fn content(&self) -> u64 {
        self.writer.content()
    }

    /// Content still to come, where the head says so.
    pub(in crate::gateway) fn left(&self) -> Option<u64> {
        self.scanner.left()
    }

    /// Takes what belongs to the body from the front of `from`, up to one run of content, and appends to `out` what
    /// the worker gets of it. Ends without having taken all of `from` when the body is done or content was taken.
    ///
    /// # Errors
    /// Broken framing, or more than `limits.body_size`.
    pub(in crate::gateway) fn step(&mut self, from: &mut BytesMut, out: &mut BytesMut) -> Result<(), BodyFault> {
        let fault = |reject: Reject| BodyFault::Framing(reject.reason);
        let (taken, piece) = self.scanner.next(from).map_err(fault)?;
        match piece {
            Piece::Framing => from.advance(taken),
            Piece::Content(len) => {
                from.advance(taken - len);
                self.writer.write_front(from, len, out)?;
            }
            Piece::Trailers(len) => {
                let bytes = &from[taken - len..taken];
                if self.trailers.len() + len <= TRAILER_BYTES {
                    self.trailers.extend_from_slice(bytes);
                }
                from.advance(taken);
            }
        }
        if self.scanner.is_done() {
            self.writer.end(&harmless(&self.trailers), out);
        }
        Ok(())
    }

    /// Reads on without a worker: what is left of a body whose answer has gone out.
    ///
    /// # Errors
    /// Broken framing.
    pub(in crate::gateway) fn discard(&mut self, from: &mut BytesMut) -> Result<(), BodyFault> {
        let taken = self.scanner.advance(from).map_err(|reject| BodyFault::Framing(reject.reason))?;
        from.advance(taken);
        Ok(())
    }
}

/// The lines of a trailer section that may be passed on.
fn harmless(section: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    for line in section.split_inclusive(|&b| b == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        if passes_as_request_trailer(&line[..colon], &line[colon + 1..]) {
            kept.extend_from_slice(line);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(wire: &[u8], cut: usize) -> Result<(Vec<u8>, Vec<u8>), BodyFault> {
        let mut body = Http1Body::new(Body::Chunked, None);
        let (mut from, mut out) = (BytesMut::new(), BytesMut::new());
        for piece in wire.chunks(cut) {
            from.extend_from_slice(piece);
            while !from.is_empty() && !body.is_done() {
                body.step(&mut from, &mut out)?;
            }
        }
        assert!(body.is_done());
        Ok((out.to_vec(), from.to_vec()))
    }

    #[test]
    fn chunks_are_framed_anew_without_extensions_and_bad_trailers() {
        let wire = b"5;a=\"b\"\r\nhello\r\n0 ;x\r\nContent-Length: 5\r\nDigest: abc\r\nX-High: \xff\r\n\r\nGET";
        let (out, rest) = rewrite(wire, wire.len()).unwrap();
        assert_eq!(out, b"5\r\nhello\r\n0\r\nDigest: abc\r\n\r\n");
        assert_eq!(rest, b"GET");
        // Cut anywhere, the content is the same.
        let (out, _) = rewrite(&wire[..wire.len() - 3], 1).unwrap();
        assert_eq!(out, b"1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\nDigest: abc\r\n\r\n");
    }

    #[test]
    fn sizes_are_written_in_hexadecimal() {
        for size in [1, 9, 10, 15, 16, 255, 256, 16384, usize::MAX] {
            let mut out = BytesMut::new();
            chunk_size(&mut out, size);
            assert_eq!(out, format!("{size:x}\r\n").as_bytes());
        }
    }

    #[test]
    fn a_length_passes_as_it_is_and_is_limited() {
        let mut body = Http1Body::new(Body::Length(5), Some(5));
        let (mut from, mut out) = (BytesMut::from(&b"helloGET"[..]), BytesMut::new());
        body.step(&mut from, &mut out).unwrap();
        assert_eq!((&out[..], &from[..], body.is_done()), (&b"hello"[..], &b"GET"[..], true));
        let mut body = Http1Body::new(Body::Chunked, Some(4));
        let mut from = BytesMut::from(&b"5\r\nhello"[..]);
        assert_eq!(body.step(&mut from, &mut BytesMut::new()), Err(BodyFault::TooLong));
    }
}
