//! A handshake answer never says "nothing" or another sid before it says its sid; queries and cookies never panic.
#![no_main]
#![allow(dead_code)]

#[path = "../../src/gateway/request/socketio.rs"]
mod socketio;

use libfuzzer_sys::fuzz_target;
use socketio::{Look, Query, cookie, param, sid_in_handshake, sid_in_set_cookie};

fuzz_target!(|bytes: &[u8]| {
    let whole = sid_in_handshake(bytes);
    if let Look::Found(sid) = &whole {
        assert!(!sid.is_empty() && sid.len() <= 256);
    }
    for cut in 0..bytes.len() {
        match sid_in_handshake(&bytes[..cut]) {
            Look::NeedMore => {}
            verdict => {
                assert_eq!(verdict, whole, "at {cut}");
                break;
            }
        }
    }
    let query = Query::parse(bytes);
    assert_eq!(query.eio, param(bytes, "EIO"));
    assert_eq!(query.transport, param(bytes, "transport"));
    assert_eq!(query.sid, param(bytes, "sid").filter(|sid| !sid.is_empty() && sid.len() <= 256));
    let _ = (cookie(bytes, "io"), sid_in_set_cookie(bytes));
});
