use crate::gateway::http1::body::BodyScanner;
use crate::gateway::http1::{Body, Reject};

/// Feeds all at once; the bytes that belong, whether the body is done, and its payload.
fn scan(body: Body, bytes: &[u8]) -> Result<(usize, bool, u64), Reject> {
    let mut scanner = BodyScanner::new(body);
    let taken = scanner.advance(bytes)?;
    Ok((taken, scanner.is_done(), scanner.payload()))
}

#[test]
fn no_body_is_done_at_once() {
    for body in [Body::None, Body::Length(0)] {
        assert!(BodyScanner::new(body).is_done());
        assert_eq!(scan(body, b"GET / HTTP/1.1"), Ok((0, true, 0)));
    }
}

#[test]
fn a_length_ends_where_it_says() {
    assert_eq!(scan(Body::Length(5), b"1234"), Ok((4, false, 4)));
    assert_eq!(scan(Body::Length(5), b"12345GET"), Ok((5, true, 5)));
    assert_eq!(scan(Body::Length(u64::MAX), &[0; 100]), Ok((100, false, 100)));
}

#[test]
fn until_close_never_ends() {
    assert_eq!(scan(Body::UntilClose, &[0; 100]), Ok((100, false, 100)));
}

#[test]
fn chunks_end_with_the_empty_line_after_the_last() {
    let cases: [(&str, u64); 9] = [
        ("0\r\n\r\n", 0),
        ("5\r\nhello\r\n0\r\n\r\n", 5),
        ("5\r\nhello\r\nA\r\n0123456789\r\n000\r\n\r\n", 15),
        ("0000000000000005\r\n\r\n0\r\n\r\n0\r\n\r\n", 5),
        ("a;x\r\n0123456789\r\n0;last=\"1\"\r\n\r\n", 10),
        ("5 \t; x = y\t\r\nhello\r\n0\r\n\r\n", 5),
        ("5\r\n0\r\n\r\n\r\n0\r\n\r\n", 5),
        ("0\r\nX-Trailer: a\tb\r\nY:\r\n\r\n", 0),
        ("0\r\nX: caf\u{e9}\r\n\r\n", 0),
    ];
    for (text, payload) in cases {
        let bytes = [text.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(scan(Body::Chunked, &bytes), Ok((text.len(), true, payload)), "{text:?}");
        assert!(!scan(Body::Chunked, &text.as_bytes()[..text.len() - 1]).unwrap().1, "{text:?}");
    }
}

#[test]
fn chunk_rules() {
    let long_extension = format!("1;{}\r\n", "x".repeat(256));
    let many_extensions = format!("1;{}\r\nx\r\n", "x".repeat(255)).repeat(65);
    let long_trailer = format!("0\r\nX: {}\r\n", "y".repeat(8192));
    let cases = [
        ("\r\n", "without a size"),
        (" 5\r\nhello\r\n", "without a size"),
        ("+5\r\n", "without a size"),
        ("-1\r\n", "without a size"),
        (";x\r\n", "without a size"),
        ("0x5\r\n", "malformed chunk size"),
        ("5h\r\n", "malformed chunk size"),
        ("5_0\r\n", "malformed chunk size"),
        ("5\nhello\r\n", "LF without CR"),
        ("5\rhello\r\n", "CR without LF"),
        ("5 \r\nhello\r\n", "space after"),
        ("5 5\r\n", "space after"),
        ("00000000000000005\r\n", "too many digits"),
        ("8000000000000000\r\n", "too large"),
        ("ffffffffffffffff\r\n", "too large"),
        ("5;a\nhello", "extension"),
        ("5;a\0\r\n", "extension"),
        ("5;\u{e9}\r\n", "extension"),
        ("5;a\rb\r\n", "CR without LF"),
        (&long_extension, "extensions too long"),
        (&many_extensions, "extensions too long"),
        ("5\r\nhello!\r\n", "longer than its size"),
        ("5\r\nhello\n", "longer than its size"),
        ("5\r\nhello\rX", "longer than its size"),
        ("5\r\nhel\r\n0\r\n\r\n", "longer than its size"),
        ("0\r\n\n", "trailer"),
        ("0\r\n\rX", "trailer"),
        ("0\r\n folded\r\n", "trailer"),
        ("0\r\nX : y\r\n", "trailer"),
        ("0\r\n: y\r\n", "trailer"),
        ("0\r\nX\r\n", "trailer"),
        ("0\r\nX: y\n", "trailer"),
        ("0\r\nX: \0\r\n", "trailer"),
        (&long_trailer, "trailers too long"),
        ("0\r\nGET / HTTP/1.1\r\n", "trailer"),
    ];
    for (text, reason) in cases {
        match scan(Body::Chunked, text.as_bytes()) {
            Ok(end) => panic!("accepted to {end:?}: {text:?}"),
            Err(reject) => {
                assert_eq!(reject.status, 400);
                assert!(reject.reason.contains(reason), "{reject}, expected {reason:?}, for {text:?}");
            }
        }
    }
    assert!(scan(Body::Chunked, format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(255)).as_bytes()).unwrap().1);
    assert!(scan(Body::Chunked, format!("0\r\nX: {}\r\n\r\n", "y".repeat(8185)).as_bytes()).unwrap().1);
}

#[test]
fn a_refused_body_stays_refused() {
    let mut scanner = BodyScanner::new(Body::Chunked);
    let first = scanner.advance(b"x\r\n").unwrap_err();
    assert_eq!(scanner.advance(b"0\r\n\r\n"), Err(first));
    assert!(!scanner.is_done());
}

#[test]
fn the_largest_chunk_counts_on() {
    let mut scanner = BodyScanner::new(Body::Chunked);
    assert_eq!(scanner.advance(b"7fffffffffffffff\r\nabc"), Ok(21));
    assert_eq!(scanner.payload(), 3);
}
