//! A request head is judged alike however it is cut, and httparse reads an accepted one in the same way.
#![no_main]
#![allow(dead_code)]

#[path = "../../src/gateway/http1/mod.rs"]
mod http1;

use http1::Progress;
use http1::head::{Limits, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let tight = Limits { request_line: 40, total: 160, fields: 5 };
    for limits in [Limits::default(), tight] {
        let whole = check(bytes, 0, &limits);
        let mut scanned = 0;
        let mut step_by_step = whole;
        for cut in 0..=bytes.len() {
            step_by_step = check(&bytes[..cut], scanned, &limits);
            match step_by_step {
                Ok(Progress::Partial { scanned: upto }) => scanned = upto,
                _ => break,
            }
        }
        assert_eq!(step_by_step, whole);
        let Ok(Progress::Complete(head)) = whole else { continue };
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut request = httparse::Request::new(&mut headers);
        assert_eq!(request.parse(bytes), Ok(httparse::Status::Complete(head.len)));
        assert_eq!(request.method.map(str::as_bytes), Some(head.method_name.of(bytes)));
        assert_eq!(request.path.map(str::as_bytes), Some(head.target.of(bytes)));
        let theirs = request.headers.iter().map(|h| (h.name.as_bytes(), h.value.trim_ascii()));
        assert!(head.headers(bytes).eq(theirs));
    }
});
