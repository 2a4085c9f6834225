use super::*;

fn sid(target: &str) -> Option<Vec<u8>> {
    Query::parse(target.as_bytes()).sid.map(Cow::into_owned)
}

#[test]
fn engine_requests_are_known_by_their_query() {
    let cases = [
        ("/socket.io/?EIO=4&transport=polling&t=abc", true),
        ("/any/path?transport=websocket&EIO=3", true),
        ("http://a.example/x?EIO=4&transport=polling", true),
        ("/socket.io/?%45IO=4&trans%70ort=polling", true),
        ("/socket.io/?EIO&transport", true),
        ("/socket.io/?EIO=4", false),
        ("/socket.io/?transport=polling", false),
        ("/socket.io/?eio=4&transport=polling", false),
        ("/socket.io/EIO=4&transport=polling", false),
        ("/socket.io/?XEIO=4&transport=polling", false),
        ("/", false),
        ("", false),
        ("/?", false),
    ];
    for (target, expected) in cases {
        assert_eq!(Query::parse(target.as_bytes()).is_engine(), expected, "{target}");
    }
    assert!(Query::parse(b"/?EIO=4&transport=polling").is_polling());
    assert!(!Query::parse(b"/?EIO=4&transport=websocket").is_polling());
}

#[test]
fn the_sid_is_read_as_the_server_reads_it() {
    let long_ok = "x".repeat(256);
    let long = "x".repeat(257);
    let cases = [
        ("/?EIO=4&transport=polling&sid=lv_VI97HAXpY6yYWAAAB", Some("lv_VI97HAXpY6yYWAAAB")),
        ("/?sid=first&sid=last", Some("last")),
        ("/?sid=first&s%69d=last", Some("last")),
        ("/?sid=a%2Bb+c%20d", Some("a+b c d")),
        ("/?sid=100%&x", Some("100%")),
        ("/?sid=%zz%4", Some("%zz%4")),
        ("/?sid=a=b", Some("a=b")),
        ("/?sid=", None),
        ("/?sid", None),
        ("/?sid=a&sid=", None),
        ("/?sidx=a", None),
        ("/?a&&sid=b&", Some("b")),
        (&format!("/?sid={long_ok}"), Some(&long_ok)),
        (&format!("/?sid={long}"), None),
        (&format!("/?sid={}", "%41".repeat(256)), Some("A".repeat(256).leak())),
        (&format!("/?sid={}", "%41".repeat(257)), None),
    ];
    for (target, expected) in cases {
        assert_eq!(sid(target).as_deref(), expected.map(str::as_bytes), "{target}");
    }
}

#[test]
fn a_plain_sid_is_borrowed() {
    let query = Query::parse(b"/?EIO=4&transport=polling&sid=abc");
    assert!(matches!(query.sid, Some(Cow::Borrowed(b"abc"))));
    assert!(matches!(query.eio, Some(Cow::Borrowed(b"4"))));
}

#[test]
fn any_parameter_may_be_asked_for() {
    let param = |target: &'static str, name| param(target.as_bytes(), name).map(Cow::into_owned);
    assert_eq!(param("/?room=a&room=b%20c", "room"), Some(b"b c".to_vec()));
    assert_eq!(param("/?r%C3%A4um=x", "räum"), Some(b"x".to_vec()));
    assert_eq!(param("/?room", "room"), Some(Vec::new()));
    assert_eq!(param("/room=a", "room"), None);
}

#[test]
fn cookies_are_found_by_their_whole_name() {
    let cases: [(&str, Option<&str>); 8] = [
        ("sid=abc", Some("abc")),
        ("a=1; sid=abc; b=2", Some("abc")),
        ("a=1;sid=abc", Some("abc")),
        ("xsid=1; sid2=2", None),
        ("sid=first; sid=second", Some("first")),
        ("flag; sid=a=b", Some("a=b")),
        ("sid=", Some("")),
        ("", None),
    ];
    for (header, expected) in cases {
        assert_eq!(cookie(header.as_bytes(), "sid"), expected.map(str::as_bytes), "{header}");
    }
}

#[test]
fn the_cookie_of_old_servers_holds_the_sid() {
    let found = |value: &'static str| sid_in_set_cookie(value.as_bytes()).map(Cow::into_owned);
    assert_eq!(found("io=Vbmt_cvyAsnLIXjcAAAA; Path=/; HttpOnly"), Some(b"Vbmt_cvyAsnLIXjcAAAA".to_vec()));
    assert_eq!(found("io=a%20b"), Some(b"a b".to_vec()));
    assert_eq!(found("io=; Path=/"), None);
    assert_eq!(found("other=1; io=abc"), None);
    assert_eq!(found("iox=abc"), None);
}

const OPEN: &str =
    r#"{"sid":"lv_VI97HAXpY6yYWAAAB","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000}"#;

#[test]
fn what_follows_the_sid_does_not_matter() {
    for body in
        [&br#"0{"sid":"x",!"#[..], br#"___eio[0]("0{\"sid\":\"x\",\u'"x}");"#, br#"___eio[0]("0{\"sid\":\"x\"\"#]
    {
        assert_eq!(sid_in_handshake(body), Look::Found(Cow::Borrowed(b"x")));
    }
}

/// Handshake answers with the sid `lv_VI97HAXpY6yYWAAAB`, one of each framing.
fn answers() -> Vec<(&'static str, Vec<u8>)> {
    let binary = [&[0, 9, 7, 0xff][..], b"0", OPEN.as_bytes(), &[0, 2, 0xff], b"40"].concat();
    let quoted = OPEN.replace('"', "\\\"");
    vec![
        ("protocol 4", format!("0{OPEN}").into()),
        ("protocol 4, more packets", format!("0{OPEN}\u{1e}40").into()),
        ("protocol 3", format!("97:0{OPEN}2:40").into()),
        ("protocol 3 binary", binary),
        ("JSONP of 4", format!("___eio[0](\"0{quoted}\");").into()),
        ("JSONP of 3", format!("___eio[12](\"97:0{quoted}2:40\");").into()),
        ("JSONP without index", format!("___eio[](\"0{quoted}\");").into()),
        (
            "other key order",
            br#"0{"a":[{"sid":"no","x":[]}],"b":{"sid":"}"},"n":-1.5e3,"sid":"lv_VI97HAXpY6yYWAAAB"}"#.into(),
        ),
        ("spaces", b"0{ \"upgrades\" : [ ] , \"sid\" : \"lv_VI97HAXpY6yYWAAAB\" }".into()),
        ("escapes", br#"0{"x\"sid":"\\","sid":"lv\u005fVI97HAXpY6yYWAAAB"}"#.into()),
        ("escapes in JSONP", br#"___eio[1]("0{\"sid\":\"lv\\u005fVI97\u0048AXpY6yYWAAAB\"}");"#.into()),
    ]
}

#[test]
fn every_handshake_framing_gives_its_sid() {
    for (name, body) in answers() {
        assert_eq!(sid_in_handshake(&body), Look::Found(Cow::Borrowed(b"lv_VI97HAXpY6yYWAAAB")), "{name}");
    }
    assert!(matches!(sid_in_handshake(format!("0{OPEN}").as_bytes()), Look::Found(Cow::Borrowed(_))));
}

#[test]
fn a_cut_handshake_asks_for_more_until_the_sid_is_there() {
    for (name, body) in answers() {
        let looks: Vec<_> = (0..body.len()).map(|cut| sid_in_handshake(&body[..cut])).collect();
        let first_found = looks.iter().position(|look| matches!(look, Look::Found(_))).unwrap_or(body.len());
        for (cut, look) in looks.iter().enumerate() {
            let expected = if cut < first_found { Look::NeedMore } else { sid_in_handshake(&body) };
            assert_eq!(*look, expected, "{name} cut at {cut}");
        }
    }
}

#[test]
fn other_bodies_give_nothing() {
    let gzip = [0x1f, 0x8b, 8, 0];
    let cases: [(&str, &[u8]); 18] = [
        ("compressed", &gzip),
        ("an error", br#"{"code":1,"message":"Session ID unknown"}"#),
        ("HTML", b"<!doctype html>"),
        ("ok", b"ok"),
        ("a message packet", b"4{\"sid\":\"x\"}"),
        ("no object", b"0[1]"),
        ("no sid", b"0{\"a\":1}"),
        ("empty object", b"0{}"),
        ("sid is no string", b"0{\"sid\":7}"),
        ("empty sid", b"0{\"sid\":\"\"}"),
        ("sid only deeper", b"0{\"a\":{\"sid\":\"x\"}}"),
        ("malformed escape", b"0{\"sid\":\"\\x41\"}"),
        ("no length", b":0{\"sid\":\"x\"}"),
        ("endless length", b"12345678901:0{\"sid\":\"x\"}"),
        ("binary message", &[1, 9, 7, 0xff, b'0', b'{']),
        ("other JSONP", b"callback(\"0{}\")"),
        ("like JSONP", b"___eix[0](\"0{}\")"),
        ("JSONP that ends early", br#"___eio[0]("0{\"a\":1");"#),
    ];
    for (name, body) in cases {
        assert_eq!(sid_in_handshake(body), Look::Nothing, "{name}");
    }
    let far = format!("0{{\"a\":\"{}\",\"sid\":\"x\"}}", "-".repeat(1024));
    assert_eq!(sid_in_handshake(far.as_bytes()), Look::Nothing);
    assert_eq!(sid_in_handshake(&far.as_bytes()[..1000]), Look::NeedMore);
    let long = |n| format!("0{{\"sid\":\"{}\"}}", "x".repeat(n));
    assert!(matches!(sid_in_handshake(long(256).as_bytes()), Look::Found(_)));
    assert_eq!(sid_in_handshake(long(257).as_bytes()), Look::Nothing);
}

#[test]
fn escapes_are_undone_as_json_says() {
    let cases: [(&str, Option<&str>); 8] = [
        (r"a\/\b\f\n\r\t\\\u00e4", Some("a/\u{8}\u{c}\n\r\t\\ä")),
        (r"\ud83d\ude00!", Some("😀!")),
        (r"\ud83dx", Some("\u{fffd}x")),
        (r"\ud83d\u0041", Some("\u{fffd}A")),
        (r"\ude00", Some("\u{fffd}")),
        (r"\u12", None),
        (r"\u00g0", None),
        ("\\", None),
    ];
    for (text, expected) in cases {
        assert_eq!(unescape(text.as_bytes()).ok().as_deref(), expected.map(str::as_bytes), "{text}");
    }
}

#[test]
fn garbage_never_panics() {
    let mut rng = fastrand::Rng::with_seed(3);
    let seeds = answers();
    for _ in 0..50_000 {
        let mut body = seeds[rng.usize(0..seeds.len())].1.clone();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(0..body.len());
            body[at] = *rng.choice(b"\\\"{}[]:,0u\x00\xff%&=?").unwrap_or(&0);
        }
        body.truncate(rng.usize(0..=body.len()));
        let _ = sid_in_handshake(&body);
        let _ = Query::parse(&body);
        let _ = sid_in_set_cookie(&body);
    }
}

#[test]
fn a_poll_is_closed_as_its_client_understands_it() {
    let body = |target: &str| {
        let answer = String::from_utf8(close_poll(target.as_bytes())).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        body.to_owned()
    };
    assert_eq!(body("/socket.io/?EIO=4&transport=polling&sid=x"), "1");
    assert_eq!(body("/socket.io/?EIO=3&transport=polling&sid=x"), "1:1");
    assert_eq!(body("/socket.io/?EIO=3&transport=polling&sid=x&j=12"), "___eio[12](\"1:1\");");
    assert_eq!(body("/socket.io/?EIO=4&transport=polling&sid=x&j=alert(1)"), "1");
}
