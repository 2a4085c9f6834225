use super::facts::Facts;
use super::line::Entry;
use super::record::{By, ByteCount, Record, Times, Trace, TunnelLine, Worker};
use super::*;
use crate::process::output::{self, Logs, Target};
use crate::worker::Tag;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 2026-11-28T18:41:17.25Z
fn then() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_795_891_277_250)
}

fn facts() -> Facts<'static> {
    Facts {
        client: Some("::ffff:10.0.0.7".parse().unwrap()),
        protocol: "HTTP/1.1",
        method: b"GET",
        target: b"/a%20b?x=1&token=abc&y",
        host: b"Chat.example:8000",
        user_agent: Some(b"curl/8 \"x\"\x1b\xff"),
        referer: Some(b"https://a.example/?sid=s3cret"),
        head_bytes: 100,
        app: Some("chat"),
        ..Facts::default()
    }
}

fn record<'a>(facts: &'a Facts<'a>) -> Record<'a> {
    Record {
        time: then(),
        facts,
        worker: Some(Worker { slot: 2, generation: 3, socket: "/run/chat.sock" }),
        sid_tag: Tag::parse("abc"),
        status: 200,
        by: By::Worker,
        reason: None,
        detail: None,
        times: Times {
            queue: Some(Duration::from_micros(12)),
            connect: Some(Duration::from_millis(1)),
            first_byte: Some(Duration::from_millis(20)),
            worker: Some(Duration::from_millis(1500)),
            total: Duration::from_millis(1501),
        },
        retries: 1,
        bytes: ByteCount { received: 5, sent: 300, head: 100 },
        tunnel: None,
    }
}

fn line(record: &Record<'_>, format: &Format) -> String {
    let mut out = Vec::new();
    encode::line(record, format, &Redact::default(), &mut out);
    String::from_utf8(out).unwrap()
}

fn template(record: &Record<'_>, text: &str) -> String {
    line(record, &Format::template(text).unwrap()).trim_end_matches('\n').to_owned()
}

#[test]
fn combined_is_as_nginx_has_it() {
    let facts = facts();
    let expected = "10.0.0.7 - - [28/Nov/2026:18:41:17 +0000] \"GET /a%20b?x=1&token=REDACTED&y HTTP/1.1\" 200 200 \
                    \"https://a.example/?sid=REDACTED\" \"curl/8 \\x22x\\x22\\x1B\\xFF\"\n";
    assert_eq!(line(&record(&facts), &Format::combined()), expected);
}

#[test]
fn variables_mean_what_they_mean_in_nginx() {
    let facts = facts();
    let record = record(&facts);
    for (text, expected) in [
        ("$time_iso8601 $msec", "2026-11-28T18:41:17+00:00 1795891277.250"),
        ("$request_method $uri $args $query_string", "GET /a%20b x=1&token=REDACTED&y x=1&token=REDACTED&y"),
        ("$request_uri", "/a%20b?x=1&token=REDACTED&y"),
        ("$scheme://$host $http_host $server_protocol", "http://chat.example Chat.example:8000 HTTP/1.1"),
        ("$bytes_sent $body_bytes_sent $request_length $received", "300 200 105 5"),
        ("$request_time $upstream_connect_time $upstream_header_time", "1.501 0.001 0.021"),
        ("$upstream_response_time $queue_time $upstream_addr", "1.500 0.000 unix:/run/chat.sock"),
        ("$app[$slot] g$generation $sid_tag $answered_by $reason $retries", "chat[2] g3 abc worker - 1"),
        ("${status}x $request_id $ssl_protocol $upgrade $tunnel", "200x - - - -"),
    ] {
        assert_eq!(template(&record, text), expected, "{text}");
    }
    for name in Format::variables() {
        assert!(!template(&record, &format!("${name}")).is_empty(), "{name}");
    }
    assert_eq!(Format::template("$remote_adr"), Err(Unknown::Variable("remote_adr".into())));
    for text in ["$", "a $ b", "${status", "$-"] {
        assert_eq!(Format::template(text), Err(Unknown::Dollar), "{text}");
    }
}

#[test]
fn json_is_valid_for_any_bytes() {
    let every: Vec<u8> = (0..=255).collect();
    let facts = Facts { target: &every, host: &every, user_agent: Some(&every), referer: Some(&every), ..facts() };
    let text = line(&record(&facts), &Format::Json);
    assert_eq!(text.matches('\n').count(), 1);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["user_agent"], String::from_utf8_lossy(&every).as_ref());
    let text = line(&record(&facts), &Format::combined());
    assert!(text.trim_end_matches('\n').bytes().all(|b| matches!(b, b' '..=b'~')), "{text}");
}

#[test]
fn json_says_what_is_known() {
    let facts = Facts { request_id: Some(b"r1"), tls_version: Some("TLSv1.3"), secure: true, ..facts() };
    let value: serde_json::Value = serde_json::from_str(&line(&record(&facts), &Format::Json)).unwrap();
    let expected = serde_json::json!({
        "time": "2026-11-28T18:41:17.250Z", "client": "10.0.0.7", "method": "GET", "path": "/a%20b",
        "query": "x=1&token=REDACTED&y", "protocol": "HTTP/1.1", "scheme": "https", "host": "Chat.example:8000", "status": 200,
        "answered_by": "worker", "app": "chat", "slot": 2, "generation": 3, "request_id": "r1", "sid_tag": "abc",
        "tls_version": "TLSv1.3", "queue": 0.000012, "connect": 0.001, "first_byte": 0.02, "total": 1.501, "received": 5,
        "sent": 300, "body_sent": 200, "retries": 1, "user_agent": "curl/8 \"x\"\u{1b}\u{fffd}",
        "referer": "https://a.example/?sid=REDACTED",
    });
    assert_eq!(value, expected);
    let ended = Record { tunnel: Some(TunnelLine::End(then(), "client")), reason: Some("client"), ..record(&facts) };
    let value: serde_json::Value = serde_json::from_str(&line(&ended, &Format::Json)).unwrap();
    assert_eq!((&value["tunnel"], &value["reason"]), (&"end".into(), &"client".into()));
    assert_eq!(value["began"], "2026-11-28T18:41:17.250Z");
}

#[test]
fn secrets_of_a_query_are_redacted_however_they_are_written() {
    let redact = Redact::default();
    let shown = |target: &str| {
        let mut out = Vec::new();
        redact.pieces(target.as_bytes(), |piece| out.extend_from_slice(piece));
        String::from_utf8(out).unwrap()
    };
    for (target, expected) in [
        ("/token=a", "/token=a"),
        ("/?token=a", "/?token=REDACTED"),
        ("/?a=1&TOKEN=a=b&c", "/?a=1&TOKEN=REDACTED&c"),
        ("/?%74oken=a;sid=b#code=c", "/?%74oken=REDACTED;sid=REDACTED#code=REDACTED"),
        ("/?token=&token&tokens=a&to%zzken=a", "/?token=&token&tokens=a&to%zzken=a"),
        ("/?a?sid=b&&=x&", "/?a?sid=b&&=x&"),
        ("/?x-amz-signature=q?token=b", "/?x-amz-signature=REDACTED"),
        ("https://a/b#access_token=c&d=1", "https://a/b#access_token=REDACTED&d=1"),
        ("/?token[]=a&token%5b0%5D=b&[token]=c", "/?token[]=REDACTED&token%5b0%5D=REDACTED&[token]=c"),
    ] {
        assert_eq!(shown(target), expected);
    }
    let mut all = Vec::new();
    Redact::new([]).pieces(b"/?token=a", |piece| all.extend_from_slice(piece));
    assert_eq!(all, b"/?token=a");
}

#[test]
fn of_a_refused_head_the_first_line_is_told() {
    let client = crate::gateway::request::client::ClientInfo { ip: None, secure: false, hsts: None, tls: None };
    for (read, method, target, protocol) in [
        (&b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"[..], &b"GET"[..], &b"/a b"[..], "HTTP/1.1"),
        (b"\r\nGET /?token=x HTTP/1.7\r\n", b"GET", b"/?token=x HTTP/1.7", ""),
        (b"GET", b"GET", b"", ""),
        (b"\x16\x03\x01", b"\x16\x03\x01", b"", ""),
        (b"", b"", b"", ""),
    ] {
        let facts = Facts::of_refused(read, client);
        assert_eq!((facts.method, facts.target, facts.protocol), (method, target, protocol));
    }
}

fn policy(path: &std::path::Path) -> Policy {
    Policy {
        target: Target::File(path.to_owned(), output::Rotate::default()),
        format: Format::template("$uri").unwrap(),
        redact: Redact::default(),
        sample: 1.0,
        tunnel_begin: false,
    }
}

fn file(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("access-{name}-{}.log", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

#[test]
fn lines_of_all_threads_are_written_and_counted() {
    let path = file("threads");
    let counters: Arc<Counters> = Arc::default();
    let logs = Logs::new(output::Policy::default());
    let log = AccessLog::new(policy(&path), logs, counters.clone());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || {
                for n in 0..5000 {
                    let target = format!("/{thread}/{n}?sid=x");
                    drop(Line::new(log, Facts { target: target.as_bytes(), ..Facts::default() }));
                    if n % 1000 == 0 {
                        log.collect();
                    }
                }
            });
        }
    });
    log.close(Duration::from_secs(20));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), counters.lines(), counters.dropped()), (20_000, 20_000, 0));
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 20_000, "each line once");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_reload_to_another_file_leaves_the_old_one_with_what_had_begun() {
    let (one, two) = (file("one"), file("two"));
    let counters: Arc<Counters> = Arc::default();
    let logs = Logs::new(output::Policy::default());
    let before = AccessLog::new(policy(&one), logs.clone(), counters.clone());
    let write = |log: &AccessLog, target: &[u8]| drop(Line::new(log, Facts { target, ..Facts::default() }));
    write(&before, b"/1");
    let after = AccessLog::new(policy(&two), logs, counters).succeeding(&before);
    write(&before, b"/2");
    write(&after, b"/3");
    before.close(Duration::from_secs(20));
    after.close(Duration::from_secs(20));
    assert_eq!(std::fs::read_to_string(&one).unwrap(), "/1\n/2\n");
    assert_eq!(std::fs::read_to_string(&two).unwrap(), "/3\n");
    [one, two].iter().for_each(|path| std::fs::remove_file(path).unwrap());
}

#[test]
fn what_cannot_be_written_is_counted_and_stops_nobody() {
    let counters: Arc<Counters> = Arc::default();
    let logs = Logs::new(output::Policy::default());
    let log = AccessLog::new(policy(std::path::Path::new("/dev/full")), logs, counters.clone());
    for _ in 0..100 {
        drop(Line::new(&log, Facts::default()));
    }
    log.close(Duration::from_secs(20));
    assert_eq!(counters.dropped(), 100);
}

#[test]
fn a_tunnel_that_moves_takes_little_room_and_no_secrets() {
    let path = file("moves");
    let counters: Arc<Counters> = Arc::default();
    let log = AccessLog::new(policy(&path), Logs::new(output::Policy::default()), counters);
    let long = [b"/?token=geheim&x=".as_slice(), &[0xff; 20_000]].concat();
    let facts = Facts { target: &long, host: &long, user_agent: Some(&long), referer: Some(&long), ..facts() };
    let entry = Line::new(&log, facts).into_tunnel();
    let text = serde_json::to_string(&*entry).unwrap();
    assert!(text.len() < 10_000, "{}", text.len());
    let said: Entry = serde_json::from_str(&text).unwrap();
    assert!(serde_json::to_string(&said.with(1, 2)).unwrap().contains("\"received\":1,\"sent\":2"));
    assert!(!text.contains("\"target\":\"/?token=geheim"));
    log.close(Duration::ZERO);
}

#[test]
fn a_sample_keeps_every_failure() {
    let facts = facts();
    let ordinary = record(&facts);
    assert!(ordinary.is_ordinary());
    assert!(!Record { status: 404, ..record(&facts) }.is_ordinary());
    assert!(!Record { reason: Some("client_gone"), ..record(&facts) }.is_ordinary());
    let trace = Trace::new();
    assert_eq!((trace.status, trace.by), (499, By::Nobody), "of which nothing else is known");
}
