use crate::gateway::http1::response::{Head, MAX_BYTES, MAX_FIELDS, Malformed, check};
use crate::gateway::http1::{Body, Method, Progress, Version};

fn checked(head: &[u8], method: Method) -> Result<Head, Malformed> {
    match check(head, 0, method)? {
        Progress::Complete(head) => Ok(head),
        Progress::Partial { scanned } => panic!("partial after {scanned} of {:?}", String::from_utf8_lossy(head)),
    }
}

#[test]
fn a_good_answer_gives_its_facts() {
    let text = "HTTP/1.1 404 Not Found\r\nDate: x\r\nContent-Length: 3\r\n\r\nabc";
    let buf = text.as_bytes();
    let head = checked(buf, Method::Get).unwrap();
    assert_eq!((head.len, head.status, head.version), (text.len() - 3, 404, Version::Http11));
    assert_eq!(head.phrase.of(buf), b"Not Found");
    assert_eq!((head.body, head.keep_alive, head.field_count), (Body::Length(3), true, 2));
    assert_eq!(head.headers(buf).next(), Some((&b"Date"[..], &b"x"[..])));
}

#[test]
fn the_body_depends_on_status_and_method() {
    use Method::{Get, Head as HeadMethod};
    let cases = [
        ("200 OK", Get, "Content-Length: 5", Body::Length(5), true),
        ("200 OK", Get, "Transfer-Encoding: chunked", Body::Chunked, true),
        ("200 OK", Get, "X: y", Body::UntilClose, false),
        ("200 OK", Get, "Connection: close\r\nContent-Length: 5", Body::Length(5), false),
        ("200 OK", HeadMethod, "Content-Length: 5", Body::None, true),
        ("200 OK", HeadMethod, "Transfer-Encoding: chunked", Body::None, true),
        ("200 OK", HeadMethod, "X: y", Body::None, true),
        ("204 No Content", Get, "Content-Length: 0", Body::None, true),
        ("304 Not Modified", Get, "Content-Length: 5", Body::None, true),
        ("100 Continue", Get, "X: y", Body::None, true),
        ("103 Early Hints", Get, "Link: </a>", Body::None, true),
        ("101 Switching Protocols", Get, "Upgrade: websocket", Body::None, false),
        ("500", Get, "Content-Length: 0", Body::Length(0), true),
    ];
    for (status, method, field, body, keep_alive) in cases {
        let head = checked(format!("HTTP/1.1 {status}\r\n{field}\r\n\r\n").as_bytes(), method).unwrap();
        assert_eq!((head.body, head.keep_alive), (body, keep_alive), "{status} {method:?} {field}");
    }
    let old =
        |fields: &str| checked(format!("HTTP/1.0 200 OK\r\n{fields}\r\n\r\n").as_bytes(), Get).unwrap().keep_alive;
    assert!(!old("Content-Length: 5"));
    assert!(old("Content-Length: 5\r\nConnection: keep-alive"));
}

#[test]
fn a_switch_to_websocket_is_known() {
    let switch = |text: &str| checked(text.as_bytes(), Method::Get).unwrap().websocket;
    assert!(switch("HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n"));
    assert!(!switch("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"));
    assert!(!switch("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"));
    assert!(!switch("HTTP/1.1 400 Bad Request\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"));
}

#[test]
fn real_status_lines_pass() {
    for line in ["HTTP/1.1 200 OK", "HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.0 299 caf\u{e9} \t x", "HTTP/1.1 999 ?"] {
        checked(format!("{line}\r\n\r\n").as_bytes(), Method::Get).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    for line in [
        "HTTP/1.1 20",
        "HTTP/1.1 2000",
        "HTTP/1.1 099 x",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/2 200",
        "HTTP/1.2 200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\rK",
        "\r\nHTTP/1.1 200 OK",
    ] {
        let verdict = checked(format!("{line}\r\n\r\n").as_bytes(), Method::Get);
        assert!(verdict.is_err(), "accepted {line:?}");
    }
}

#[test]
fn ambiguous_framing_is_malformed() {
    let cases = [
        ("Content-Length: 5\r\nContent-Length: 5", "more than one"),
        ("Content-Length: 5, 5", "malformed Content-Length"),
        ("Content-Length: -5", "malformed Content-Length"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "both"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "other than one"),
        ("Transfer-Encoding: gzip, chunked", "other than one"),
        ("Transfer-Encoding: identity", "other than one"),
        ("Connection: content-length", "Connection names"),
        ("X : y", "space"),
        (" X: y", "obs-fold"),
        ("X: a\0", "control"),
        ("X: a\nY: b", "LF without CR"),
    ];
    for (field, reason) in cases {
        let malformed =
            checked(format!("HTTP/1.1 200 OK\r\nServer: x\r\n{field}\r\n\r\n").as_bytes(), Method::Get).unwrap_err();
        assert!(malformed.reason.contains(reason), "{malformed}, expected {reason:?}");
    }
    let old = checked(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Get).unwrap_err();
    assert!(old.reason.contains("HTTP/1.0"));
    let line = checked(b"HTTP/1.1 200 OK\nX: y\r\n\r\n", Method::Get).unwrap_err();
    assert!(line.reason.contains("LF without CR"));
}

#[test]
fn limits_are_exact() {
    let fields = |n: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(n));
    assert!(checked(fields(MAX_FIELDS).as_bytes(), Method::Get).is_ok());
    assert!(checked(fields(MAX_FIELDS + 1).as_bytes(), Method::Get).is_err());
    let long = |bytes: usize| format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(bytes - 24));
    assert_eq!(long(MAX_BYTES).len(), MAX_BYTES);
    assert!(checked(long(MAX_BYTES).as_bytes(), Method::Get).is_ok());
    assert!(checked(long(MAX_BYTES + 1).as_bytes(), Method::Get).is_err());
}
