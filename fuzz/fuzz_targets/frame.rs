//! The tracker stands at the same place however the stream is cut, and its steps end at frame boundaries.
#![no_main]
#![allow(dead_code)]

#[path = "../../src/gateway/tunnel/frame.rs"]
mod frame;

use frame::{Tracker, close_frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let view =
        |t: &Tracker| (t.at_frame_boundary(), t.at_message_boundary(), t.close_seen(), t.is_malformed(), t.frames());
    let mut at_once = Tracker::new();
    at_once.feed(bytes);
    let mut byte_by_byte = Tracker::new();
    bytes.iter().for_each(|b| byte_by_byte.feed(&[*b]));
    assert_eq!(view(&at_once), view(&byte_by_byte));

    let mut stepped = Tracker::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let taken = stepped.step(rest);
        rest = &rest[taken..];
        assert!(taken > 0 && (rest.is_empty() || stepped.at_frame_boundary()));
    }
    assert_eq!(view(&stepped), view(&at_once));

    // A Close put in at a boundary is understood as one.
    if stepped.at_frame_boundary() {
        let reason = String::from_utf8_lossy(bytes);
        stepped.feed(&close_frame(1001, &reason, bytes.first_chunk().copied()));
        assert!(stepped.close_seen() && stepped.at_frame_boundary());
    }
});
