//! A chunked body ends at the same byte however it is cut, and where httparse's reading of its lines ends it.
#![no_main]
#![allow(dead_code)]

#[path = "../../src/gateway/http1/mod.rs"]
mod http1;

use http1::Body;
use http1::body::BodyScanner;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut at_once = BodyScanner::new(Body::Chunked);
    let end = at_once.advance(bytes);
    let mut byte_by_byte = BodyScanner::new(Body::Chunked);
    let taken: Result<Vec<usize>, _> = bytes.iter().map(|b| byte_by_byte.advance(&[*b])).collect();
    assert_eq!(taken.map(|taken| taken.iter().sum()), end);
    assert_eq!(byte_by_byte.is_done(), at_once.is_done());
    assert_eq!(byte_by_byte.payload(), at_once.payload());
    if let (Ok(end), true) = (end, at_once.is_done()) {
        assert_eq!(by_httparse(bytes), Some((end, at_once.payload())));
    }
});

fn by_httparse(bytes: &[u8]) -> Option<(usize, u64)> {
    let (mut at, mut payload) = (0, 0);
    loop {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(&bytes[at..]) else {
            return None;
        };
        at += line;
        if size == 0 {
            let mut headers = [httparse::EMPTY_HEADER; 4096];
            let Ok(httparse::Status::Complete((trailer, _))) = httparse::parse_headers(&bytes[at..], &mut headers)
            else {
                return None;
            };
            return Some((at + trailer, payload));
        }
        payload += size;
        at += size as usize;
        at += bytes[at..].starts_with(b"\r\n").then_some(2)?;
    }
}
