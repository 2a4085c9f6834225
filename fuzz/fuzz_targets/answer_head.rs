//! The same for a worker's answer.
#![no_main]
#![allow(dead_code)]

#[path = "../../src/gateway/http1/mod.rs"]
mod http1;

use http1::response::check;
use http1::{Method, Progress};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = check(bytes, 0, Method::Get);
    let mut scanned = 0;
    let mut step_by_step = whole;
    for cut in 0..=bytes.len() {
        step_by_step = check(&bytes[..cut], scanned, Method::Get);
        match step_by_step {
            Ok(Progress::Partial { scanned: upto }) => scanned = upto,
            _ => break,
        }
    }
    assert_eq!(step_by_step, whole);
    let Ok(Progress::Complete(head)) = whole else { return };
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut answer = httparse::Response::new(&mut headers);
    assert_eq!(answer.parse(bytes), Ok(httparse::Status::Complete(head.len)));
    assert_eq!(answer.code, Some(head.status));
    let theirs = answer.headers.iter().map(|h| (h.name.as_bytes(), h.value.trim_ascii()));
    assert!(head.headers(bytes).eq(theirs));
});
