use super::*;

/// One frame as an endpoint would send it.
fn frame(fin: bool, opcode: u8, mask: bool, payload: usize) -> Vec<u8> {
    let mut bytes = vec![if fin { FIN } else { 0 } | opcode];
    let mask_bit = if mask { MASK } else { 0 };
    match payload {
        0..=125 => bytes.push(payload as u8 | mask_bit),
        126..=0xffff => {
            bytes.push(126 | mask_bit);
            bytes.extend((payload as u16).to_be_bytes());
        }
        _ => {
            bytes.push(127 | mask_bit);
            bytes.extend((payload as u64).to_be_bytes());
        }
    }
    bytes.extend(std::iter::repeat_n(0x81, payload + if mask { 4 } else { 0 }));
    bytes
}

fn fed(bytes: &[u8]) -> Tracker {
    let mut tracker = Tracker::new();
    tracker.feed(bytes);
    tracker
}

/// Everything that is visible from outside.
fn view(tracker: &Tracker) -> (bool, bool, bool, bool, u64) {
    let Tracker { frames, .. } = *tracker;
    (tracker.at_frame_boundary(), tracker.at_message_boundary(), tracker.close_seen(), tracker.is_malformed(), frames)
}

#[test]
fn fits_in_24_bytes() {
    assert!(size_of::<Tracker>() <= 24, "{}", size_of::<Tracker>());
}

#[test]
fn a_new_stream_stands_at_a_boundary() {
    assert_eq!(view(&Tracker::new()), (true, true, false, false, 0));
}

#[test]
fn every_length_form_ends_where_it_says() {
    for mask in [false, true] {
        for payload in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let bytes = frame(true, 2, mask, payload);
            assert_eq!(view(&fed(&bytes)), (true, true, false, false, 1), "{payload} {mask}");
            let cut = fed(&bytes[..bytes.len() - 1]);
            assert!(!cut.at_frame_boundary() && cut.frames() == 0, "{payload} {mask}");
        }
    }
}

#[test]
fn a_fragmented_message_keeps_the_message_open() {
    let mut tracker = fed(&frame(false, 1, true, 5));
    assert_eq!(view(&tracker), (true, false, false, false, 1));
    tracker.feed(&frame(true, 9, true, 3)); // a ping between the fragments
    assert_eq!(view(&tracker), (true, false, false, false, 2));
    tracker.feed(&frame(false, 0, true, 200));
    assert_eq!(view(&tracker), (true, false, false, false, 3));
    tracker.feed(&frame(true, 0, true, 0));
    assert_eq!(view(&tracker), (true, true, false, false, 4));
}

#[test]
fn a_close_counts_when_it_is_whole() {
    let close = frame(true, OPCODE_CLOSE, false, 2);
    assert!(!fed(&close[..3]).close_seen());
    assert!(fed(&close).close_seen());
    let mut inside_message = fed(&frame(false, 1, false, 1));
    inside_message.feed(&close);
    assert_eq!(view(&inside_message), (true, false, true, false, 2));
}

#[test]
fn extensions_and_reserved_opcodes_pass() {
    for first in [FIN | 0x41, FIN | 0x72, FIN | 3, FIN | 7, FIN | 0x0b, FIN | 0x0f] {
        assert_eq!(view(&fed(&[first, 1, b'x'])), (true, true, false, false, 1), "{first:#x}");
    }
}

#[test]
fn what_cannot_be_websocket_is_malformed_for_good() {
    let cases: [(&str, &[u8]); 6] = [
        ("length above 63 bits", &[FIN | 2, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        ("long control frame", &[FIN | 9, 126]),
        ("fragmented control frame", &[9, 0]),
        ("continuation of nothing", &[FIN, 1]),
        ("new message inside another", &[1, 0, FIN | 1, 0]),
        ("HTTP", b"HTTP/1.1 200 OK\r\n"),
    ];
    for (name, bytes) in cases {
        let mut tracker = fed(bytes);
        assert!(tracker.is_malformed() && !tracker.at_frame_boundary(), "{name}");
        tracker.feed(&frame(true, 1, false, 1));
        assert!(tracker.is_malformed() && !tracker.at_message_boundary(), "{name}");
    }
}

#[test]
fn the_longest_length_does_not_overflow() {
    let mut tracker = fed(&[FIN | 2, MASK | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    assert!(!tracker.is_malformed());
    tracker.feed(&[0; 4096]);
    assert!(!tracker.at_frame_boundary());
}

#[test]
fn a_step_stops_at_each_frame_end() {
    let frames = [frame(true, 1, true, 3), frame(false, 2, true, 300), frame(true, 0, true, 0)];
    let stream = frames.concat();
    let mut tracker = Tracker::new();
    let mut rest = &stream[..];
    for frame in &frames {
        let taken = tracker.step(rest);
        assert_eq!(taken, frame.len());
        assert!(tracker.at_frame_boundary());
        rest = &rest[taken..];
    }
    assert_eq!(tracker.step(b""), 0);
    assert_eq!(tracker.step(&frames[1][..20]), 20);
}

#[test]
fn cuts_do_not_matter() {
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..2_000 {
        let mut stream = Vec::new();
        for _ in 0..rng.usize(1..8) {
            let opcode = rng.u8(0..16);
            let payload = [0, 1, 125, 126, 300, 66_000][rng.usize(0..6)];
            stream.extend(frame(rng.bool(), opcode, rng.bool(), if opcode < 8 { payload } else { payload % 126 }));
        }
        let whole = fed(&stream);
        let mut cut = Tracker::new();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rng.usize(1..=rest.len().min(400)));
            cut.feed(piece);
            rest = after;
        }
        assert_eq!(view(&whole), view(&cut));
    }
}

#[test]
fn close_frames_are_what_the_rfc_says() {
    assert_eq!(&*close_frame(1001, "", None), &[0x88, 2, 0x03, 0xe9]);
    assert_eq!(&*close_frame(1012, "restart", None), b"\x88\x09\x03\xf4restart");
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let masked = close_frame(1000, "ok", Some(key));
    assert_eq!(masked[..2], [0x88, 0x84]);
    assert_eq!(masked[2..6], key);
    let plain: Vec<u8> = masked[6..].iter().enumerate().map(|(i, b)| b ^ key[i % 4]).collect();
    assert_eq!(plain, b"\x03\xe8ok");
    assert!(fed(&masked).close_seen());
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let frame = close_frame(1001, &"é".repeat(100), None);
    assert_eq!(frame[1], 2 + 122); // 61 characters of two bytes: 123 would cut one
    assert!(std::str::from_utf8(&frame[4..]).is_ok());
    assert!(fed(&frame).close_seen());
    assert_eq!(close_frame(1001, &"x".repeat(200), Some([1; 4])).len(), 131);
}
