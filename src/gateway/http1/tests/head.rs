//! One line per rule: what is refused, how, and what just passes.

use crate::gateway::http1::fields::list_contains;
use crate::gateway::http1::head::{Head, Limits, check};
use crate::gateway::http1::{Body, Method, Progress, Reject, Version};

fn checked(head: &[u8]) -> Result<Head, Reject> {
    match check(head, 0, &Limits::default())? {
        Progress::Complete(head) => Ok(head),
        Progress::Partial { scanned } => panic!("partial after {scanned} of {:?}", String::from_utf8_lossy(head)),
    }
}

fn accepted(head: &str) -> Head {
    checked(head.as_bytes()).unwrap_or_else(|reject| panic!("{reject}: {head:?}"))
}

/// Wraps a request line, or a field line, into an otherwise good head.
fn with_line(line: &str) -> String {
    format!("{line}\r\nHost: a.example\r\n\r\n")
}

fn with_field(field: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a.example\r\n{field}\r\nAccept: */*\r\n\r\n")
}

#[track_caller]
fn refused(head: &str, status: u16, reason: &str) {
    match checked(head.as_bytes()) {
        Ok(_) => panic!("accepted, expected {status} {reason:?}: {head:?}"),
        Err(reject) => {
            assert_eq!(reject.status, status, "{reject} for {head:?}");
            assert!(reject.reason.contains(reason), "{reject}, expected {reason:?}, for {head:?}");
        }
    }
}

#[test]
fn a_good_head_gives_its_facts() {
    let text = "\r\nPOST /a/b?c=d HTTP/1.1\r\nHost: a.example:8000\r\nX-Empty:\r\nX-Tab: \t a\tb \t\r\n\
                Content-Length: 12\r\nExpect: 100-Continue\r\n\r\nbody of 12 b";
    let buf = text.as_bytes();
    let head = accepted(text);
    assert_eq!(head.len, text.len() - 12);
    assert_eq!((head.method, head.method_name.of(buf)), (Method::Post, &b"POST"[..]));
    assert_eq!(head.target.of(buf), b"/a/b?c=d");
    assert_eq!(head.path, head.target);
    assert_eq!(head.version, Version::Http11);
    assert_eq!(head.body, Body::Length(12));
    assert_eq!(head.host.map(|host| host.of(buf)), Some(&b"a.example:8000"[..]));
    assert_eq!(head.request_line().of(buf), b"POST /a/b?c=d HTTP/1.1\r\n");
    assert!(head.keep_alive && head.expect_continue && !head.websocket);
    assert_eq!(head.field_count, 5);
    let fields: Vec<_> = head.headers(buf).collect();
    assert_eq!(fields[1], (&b"X-Empty"[..], &b""[..]));
    assert_eq!(fields[2], (&b"X-Tab"[..], &b"a\tb"[..]));
    assert_eq!(fields.len(), 5);
    assert_eq!(head.headers(buf).all("EXPECT").collect::<Vec<_>>(), [b"100-Continue"]);
    let mut lines = head.headers(buf);
    let start = lines.offset();
    lines.next();
    assert_eq!(&buf[start..lines.offset()], b"Host: a.example:8000\r\n");
}

#[test]
fn request_line_rules() {
    let long_method = "M".repeat(33);
    let cases: &[(&str, u16, &str)] = &[
        ("GET / HTTP/1.1 ", 400, "raw space"),
        ("GET  / HTTP/1.1", 400, "two spaces"),
        ("GET /  HTTP/1.1", 400, "raw space"),
        (" GET / HTTP/1.1", 400, "not an HTTP request"),
        ("GET\t/ HTTP/1.1", 400, "request line"),
        ("GET /\tx HTTP/1.1", 400, "percent-encoded"),
        ("GET /a b HTTP/1.1", 400, "raw space"),
        ("GET /\u{e9} HTTP/1.1", 400, "percent-encoded"),
        ("GET /\0 HTTP/1.1", 400, "percent-encoded"),
        ("GET /\x7f HTTP/1.1", 400, "percent-encoded"),
        ("GET /\rx HTTP/1.1", 400, "version"),
        ("GET /#top HTTP/1.1", 400, "#"),
        ("GET /", 400, "HTTP/0.9"),
        ("GET / ", 400, "HTTP/0.9"),
        ("GET", 400, "request line"),
        ("GET / HTTP/1.2", 505, "version"),
        ("GET / HTTP/0.9", 505, "version"),
        ("GET / HTTP/3.0", 505, "version"),
        ("PRI * HTTP/2.0", 505, "HTTP/2"),
        ("GET / HTTP/11", 400, "version"),
        ("GET / HTTP/1.1x", 400, "version"),
        ("GET / http/1.1", 400, "version"),
        ("GET / HTTP/1.\u{31}\u{300}", 400, "version"),
        ("G@T / HTTP/1.1", 400, "request line"),
        ("G\u{c9}T / HTTP/1.1", 400, "request line"),
        (&format!("{long_method} / HTTP/1.1"), 400, "method is too long"),
        ("CONNECT a.example:443 HTTP/1.1", 501, "CONNECT"),
        ("CONNECT / HTTP/1.1", 501, "CONNECT"),
        ("GET * HTTP/1.1", 400, "OPTIONS"),
        ("OPTIONS *x HTTP/1.1", 400, "begins"),
        ("GET a.example HTTP/1.1", 400, "begins"),
        ("GET ftp://a.example/ HTTP/1.1", 400, "begins"),
        ("GET http:/a.example/ HTTP/1.1", 400, "begins"),
        ("GET http:///x HTTP/1.1", 400, "host in the request target"),
        ("GET http://:80/x HTTP/1.1", 400, "host in the request target"),
        ("GET http://me@a.example/ HTTP/1.1", 400, "host in the request target"),
        ("GET http://b.example/ HTTP/1.1", 400, "different hosts"),
    ];
    for (line, status, reason) in cases {
        refused(&with_line(line), *status, reason);
    }
    for line in ["GET /~!$&'()*+,;=:@[]{}|\\^\"<>`%zz?? HTTP/1.1", "OPTIONS * HTTP/1.1", "x-Y.z! / HTTP/1.1"] {
        accepted(&with_line(line));
    }
    accepted(&with_line(&format!("{} / HTTP/1.1", &long_method[1..])));
}

#[test]
fn what_comes_before_the_request_line() {
    for (lead, ok) in [("\r\n", true), ("\r\n\r\n", true), ("\r\n\r\n\r\n", false), ("\n", false), ("\r", false)] {
        let result = checked(with_line(&format!("{lead}GET / HTTP/1.1")).as_bytes());
        assert_eq!(result.is_ok(), ok, "{lead:?}");
    }
}

/// A TLS client, or one of another protocol, may wait for an answer before it sends a line end.
#[test]
fn another_protocol_is_refused_at_its_first_byte() {
    for (bytes, reason) in
        [(&b"\x16"[..], "TLS"), (b"\x16\x03\x01", "TLS"), (b"\0", "not an HTTP"), (b"{", "not an HTTP")]
    {
        let reject = check(bytes, 0, &Limits::default()).unwrap_err();
        assert!(reject.status == 400 && reject.reason.contains(reason), "{reject}");
    }
    // The whole HTTP/2 preface.
    refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2");
}

#[test]
fn absolute_targets_give_host_and_path() {
    for (target, host, path) in [
        ("http://a.example/x?y", "a.example", "/x?y"),
        ("HTTPS://a.example:8/x", "a.example:8", "/x"),
        ("http://a.example", "a.example", ""),
        ("http://a.example?q", "a.example", "?q"),
        ("http://[::1]:80/", "[::1]:80", "/"),
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", host.to_uppercase());
        let head = accepted(&text);
        assert_eq!(head.path.of(text.as_bytes()), path.as_bytes(), "{target}");
        let old = format!("GET {target} HTTP/1.0\r\n\r\n");
        let host_of_target = accepted(&old).host.map(|host| host.of(old.as_bytes()));
        assert_eq!(host_of_target, Some(host.as_bytes()), "{target}");
    }
}

#[test]
fn line_end_rules() {
    let cases = [
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", "LF without CR"),
        ("GET /\nHost: a\r\n\r\n", "LF without CR"),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", "LF without CR"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", "LF without CR"),
        ("GET / HTTP/1.1\r\nHost\n\r\n", "colon"),
        ("GET / HTTP/1.1\rHost: a\r\n\r\n", "CR without LF"),
        ("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", "CR without LF"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\rX\r\n\r\n", "CR without LF"),
        ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", "CR without LF"),
    ];
    for (head, reason) in cases {
        refused(head, 400, reason);
    }
}

#[test]
fn field_line_rules() {
    let cases = [
        ("X-A : b", "space in or after"),
        ("X A: b", "space in or after"),
        ("X-A\t: b", "space in or after"),
        (" folded", "obs-fold"),
        ("\tfolded", "obs-fold"),
        ("X-A: b\r\n c", "obs-fold"),
        (" Host: b", "obs-fold"),
        (": b", "without a name"),
        ("X-A", "without a colon"),
        ("X-\u{e9}: b", "field name"),
        ("X(A): b", "field name"),
        ("X-\0: b", "field name"),
        ("X-A: b\0c", "control character"),
        ("X-A: b\x7fc", "control character"),
        ("X-A: \x1b[0m", "control character"),
        ("\0X-A: b", "control character"),
    ];
    for (field, reason) in cases {
        refused(&with_field(field), 400, reason);
    }
    for field in ["X-A:b", "X-A:\t b\tc\t", "X-A: caf\u{e9} \u{ff}", "!#$%&'*+-.^_`|~09aZ: x", "X-A: a:b: c"] {
        accepted(&with_field(field));
    }
}

#[test]
fn host_rules() {
    refused("GET / HTTP/1.1\r\nAccept: a\r\n\r\n", 400, "no Host");
    refused("GET / HTTP/1.1\r\n\r\n", 400, "no Host");
    refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "more than one Host");
    refused("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", 400, "more than one Host");
    assert_eq!(accepted("GET / HTTP/1.0\r\n\r\n").host, None);
    let bad = [
        "a b",
        "a/b",
        "a@b",
        "a,b c",
        "http://a",
        "a:b",
        "a:123456",
        "a:80:80",
        "[::1",
        "::1",
        "[]",
        "[g::1]",
        "[::1]x",
        "[::1]:x",
        "a\\b",
        "a?b",
        "a#b",
        "\u{e9}.example",
        "a\"b",
        "[::1%25eth0]",
    ];
    for host in bad {
        refused(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), 400, "malformed Host");
    }
    for host in
        ["", "a", "A.example", "a_b.example:80", "127.0.0.1:8000", "[::1]", "[2001:db8::1.2.3.4]:443", "a:", "%C3%A9"]
    {
        accepted(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
}

#[test]
fn framing_rules() {
    let cases = [
        ("Content-Length: 5\r\nContent-Length: 5", 400, "more than one Content-Length"),
        ("Content-Length: 5\r\ncontent-length: 6", 400, "more than one Content-Length"),
        ("Content-Length: 5, 5", 400, "malformed Content-Length"),
        ("Content-Length:", 400, "malformed Content-Length"),
        ("Content-Length: +5", 400, "malformed Content-Length"),
        ("Content-Length: -1", 400, "malformed Content-Length"),
        ("Content-Length: 0x10", 400, "malformed Content-Length"),
        ("Content-Length: 5 5", 400, "malformed Content-Length"),
        ("Content-Length: 9223372036854775808", 400, "malformed Content-Length"),
        ("Content-Length: 18446744073709551616", 400, "malformed Content-Length"),
        ("Content-Length: 99999999999999999999999", 400, "malformed Content-Length"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400, "both"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0", 400, "both"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400, "more than one Transfer-Encoding"),
        ("Transfer-Encoding: chunked, chunked", 501, "other than chunked"),
        ("Transfer-Encoding: gzip, chunked", 501, "other than chunked"),
        ("Transfer-Encoding: identity", 501, "other than chunked"),
        ("Transfer-Encoding: xchunked", 501, "other than chunked"),
        ("Transfer-Encoding: \"chunked\"", 501, "other than chunked"),
        ("Transfer-Encoding: chunked;a=b", 501, "other than chunked"),
        ("Transfer-Encoding: \u{b}chunked", 400, "control"),
        ("Transfer-Encoding:", 400, "empty"),
        ("Content_Length: 5", 400, "Content_Length"),
        ("Transfer_Encoding: chunked", 400, "Transfer_Encoding"),
        ("Connection: close, Content-Length", 400, "Connection names"),
        ("Connection: host", 400, "Connection names"),
        ("Connection: transfer-encoding", 400, "Connection names"),
    ];
    for (field, status, reason) in cases {
        refused(&with_field(field), status, reason);
    }
    refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "HTTP/1.0");
    for (field, body) in [
        ("X: y", Body::None),
        ("Content-Length: 0", Body::Length(0)),
        ("Content-Length: 007", Body::Length(7)),
        ("Content-Length: 9223372036854775807", Body::Length(i64::MAX as u64)),
        ("Transfer-Encoding: Chunked", Body::Chunked),
        ("transfer-encoding:\tchunked ", Body::Chunked),
    ] {
        assert_eq!(accepted(&with_field(field)).body, body, "{field}");
    }
}

#[test]
fn connection_rules() {
    for (version, field, keep_alive) in [
        ("1.1", "X: y", true),
        ("1.1", "Connection: close", false),
        ("1.1", "Connection: keep-alive, Close", false),
        ("1.1", "Connection: x\r\nConnection: ,close", false),
        ("1.1", "Connection: closed", true),
        ("1.0", "X: y", false),
        ("1.0", "Connection: Keep-Alive", true),
        ("1.0", "Connection: keep-alive, close", false),
    ] {
        let head = accepted(&format!("GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n\r\n"));
        assert_eq!(head.keep_alive, keep_alive, "{version} {field}");
    }
}

#[test]
fn expect_rules() {
    refused(&with_field("Expect: 200-ok"), 417, "Expect");
    assert!(!accepted("POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").expect_continue);
    assert!(!accepted("POST / HTTP/1.0\r\nExpect: 200-ok\r\n\r\n").expect_continue);
}

#[test]
fn websocket_handshakes_are_known() {
    let handshake = |method: &str, version: &str, fields: &str| {
        checked(format!("{method} /chat HTTP/{version}\r\nHost: a\r\n{fields}\r\n\r\n").as_bytes())
            .map(|head| head.websocket)
    };
    let good = "Upgrade: websocket\r\nConnection: Upgrade";
    assert_eq!(handshake("GET", "1.1", good), Ok(true));
    assert_eq!(handshake("GET", "1.1", "Connection: keep-alive, UPGRADE\r\nUpgrade: h2c, WebSocket"), Ok(true));
    assert_eq!(handshake("GET", "1.1", &format!("{good}\r\nContent-Length: 0")), Ok(true));
    assert_eq!(handshake("POST", "1.1", good), Ok(false));
    assert_eq!(handshake("GET", "1.0", good), Ok(false));
    assert_eq!(handshake("GET", "1.1", "Upgrade: websocket"), Ok(false));
    assert_eq!(handshake("GET", "1.1", "Connection: upgrade"), Ok(false));
    assert_eq!(handshake("GET", "1.1", "Upgrade: h2c\r\nConnection: upgrade"), Ok(false));
    assert_eq!(handshake("GET", "1.1", "Upgrade: xwebsocket\r\nConnection: upgrade"), Ok(false));
    for body in ["Content-Length: 1", "Transfer-Encoding: chunked"] {
        assert_eq!(handshake("GET", "1.1", &format!("{good}\r\n{body}")).unwrap_err().status, 400);
    }
}

#[test]
fn limits_are_exact() {
    let limits = Limits { request_line: 40, total: 100, fields: 3 };
    let judge = |text: &str| match check(text.as_bytes(), 0, &limits) {
        Ok(Progress::Complete(_)) => 200,
        Ok(Progress::Partial { .. }) => 0,
        Err(reject) => reject.status,
    };
    let line = |bytes: usize| format!("GET /{} HTTP/1.1\r\n", "x".repeat(bytes - 16));
    assert_eq!(judge(&format!("{}Host: a\r\n\r\n", line(40))), 200);
    assert_eq!(judge(&format!("{}Host: a\r\n\r\n", line(41))), 414);
    assert_eq!(judge(&line(41)[..39]), 0);
    assert_eq!(judge(&line(41)[..40]), 414);

    let head = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(bytes - 32));
    assert_eq!(head(100).len(), 100);
    assert_eq!(judge(&head(100)), 200);
    assert_eq!(judge(&(head(100) + "the body's first bytes")), 200);
    assert_eq!(judge(&head(101)), 431);
    assert_eq!(judge(&head(101)[..99]), 0);
    assert_eq!(judge(&head(101)[..100]), 431);

    assert_eq!(judge("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nX: y\r\n\r\n"), 200);
    assert_eq!(judge("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nX: y\r\nX: y\r\n\r\n"), 431);
}

#[test]
fn lists_are_read_by_element() {
    for (value, token, expected) in [
        ("upgrade", "upgrade", true),
        ("keep-alive ,\tUpgrade", "upgrade", true),
        (",,upgrade,", "upgrade", true),
        ("upgrade-insecure", "upgrade", false),
        ("up grade", "upgrade", false),
        ("", "upgrade", false),
    ] {
        assert_eq!(list_contains(value.as_bytes(), token), expected, "{value}");
    }
}
