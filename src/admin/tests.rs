use super::api::Api;
use super::client::{self, Failure, Request};
use super::commands::{Command, Verb};
use super::scrape::Scrape;
use super::view::{App, Status, Worker};
use super::*;
use ::http::{Method, StatusCode};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Hands that note what they are asked.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<String>>,
}

impl Fake {
    fn note(&self, what: String) -> Outcome {
        self.asked.lock().unwrap().push(what.clone());
        Ok(format!("did {what}"))
    }
}

#[async_trait]
impl Backend for Fake {
    fn status(&self) -> Status {
        status()
    }

    fn condition(&self) -> health::Condition {
        let app = health::AppCondition { name: "chat".to_owned(), workers: 1, ..health::AppCondition::default() };
        health::Condition { apps: vec![app], ..health::Condition::default() }
    }

    fn objection(&self, pid: Option<u32>) -> Option<String> {
        (pid == Some(666)).then(|| "it is a worker".to_owned())
    }

    async fn reload(&self, _: Option<String>, _: Option<PathBuf>, _: Option<sent::Variables>) -> Outcome {
        Err(Refusal::Failed("the new code ends at once\n  Error: no database".to_owned()))
    }

    async fn scale(&self, app: &str, to: Target) -> Outcome {
        self.note(format!("scale {app} {to}"))
    }

    async fn restart(&self, _app: &str, _: Option<sent::Variables>) -> Outcome {
        Err(Refusal::Unsupported("cannot restart yet".to_owned()))
    }

    async fn upgrade(&self, program: Option<PathBuf>, conf: Option<PathBuf>) -> Outcome {
        self.note(format!("upgrade {program:?} {conf:?}"))
    }
}

fn status() -> Status {
    let ready = Worker {
        slot: 0,
        pid: Some(4_194_304),
        incarnation: Some(7),
        generation: Some(2),
        state: "ready".to_owned(),
        since_seconds: Some(100_000.0),
        reason: "its socket answers".to_owned(),
        active: 12,
        parked: 1200,
        sessions: Some(1188),
        elu: Some(0.123),
        lag_seconds: Some(0.0123),
        rss_bytes: Some(88 * 1024 * 1024),
        restarts: 3,
        ..Worker::default()
    };
    let waiting = Worker {
        slot: 1,
        state: "backing off".to_owned(),
        reason: "exited with code 1".to_owned(),
        restarts: 1207,
        failures: 5,
        retry_seconds: Some(2.34),
        last_exit: Some("exited with code 1".to_owned()),
        last_stderr: (0..9).map(|n| format!("\u{1b}[31mline {n}\u{1b}[0m\u{7}")).collect(),
        ..Worker::default()
    };
    let other = Worker {
        pid: Some(77),
        state: "killing".to_owned(),
        reason: "not ready within 1m0s: its socket does not answer: connection refused, and more words than fit on \
                 one line of a terminal"
            .to_owned(),
        since_seconds: Some(3.0),
        ..Worker::default()
    };
    let app = |name: &str, ready: usize, workers| App { name: name.to_owned(), ready, workers };
    Status {
        file: None,
        version: "1.2.3".to_owned(),
        pid: 4242,
        uptime_seconds: 273_600.0,
        apps: vec![app("chat", 1, vec![ready, waiting]), app("api", 0, vec![other])],
    }
}

async fn ask(hands: &Arc<Fake>, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
    let answer = Api::new(hands.clone()).answer(&method, path, body.as_bytes()).await;
    assert_eq!(answer.kind, "application/json");
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

#[tokio::test]
async fn the_status_reads_back_as_it_was() {
    let (code, body) = ask(&Arc::default(), Method::GET, "/v1/status", "").await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(serde_json::from_value::<Status>(body).unwrap(), status());
    // One that knows less, and more, than we do.
    let other: Status = serde_json::from_value(json!({"version": "9", "new": [1], "apps": [{"name": "x"}]})).unwrap();
    assert_eq!((other.apps[0].name.as_str(), other.pid), ("x", 0));
    let (_, version) = ask(&Arc::default(), Method::GET, "/v1/version", "").await;
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn operations_are_passed_on_and_their_outcome_comes_back() {
    let hands: Arc<Fake> = Arc::default();
    for (body, told) in [
        (r#"{"to": 4}"#, "scale chat 4"),
        (r#"{"to": "4"}"#, "scale chat 4"),
        (r#"{"to": "+1"}"#, "scale chat +1"),
        (r#"{"to": "-2"}"#, "scale chat -2"),
        (r#"{"to": -1}"#, "scale chat -1"),
        (r#"{"to": "auto"}"#, "scale chat auto"),
    ] {
        let (code, said) = ask(&hands, Method::POST, "/v1/apps/chat/scale", body).await;
        assert_eq!((code, &said), (StatusCode::OK, &json!({"ok": true, "message": format!("did {told}")})), "{body}");
    }
    let (code, said) = ask(&hands, Method::POST, "/v1/reload", "{}").await;
    assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(said["error"], "the new code ends at once\n  Error: no database");
    let (code, said) = ask(&hands, Method::POST, "/v1/apps/api/restart", "").await;
    assert_eq!((code, &said["error"]), (StatusCode::NOT_IMPLEMENTED, &json!("cannot restart yet")));
}

#[tokio::test]
async fn mistakes_are_answered_with_what_to_write() {
    let hands: Arc<Fake> = Arc::default();
    let scale = "/v1/apps/chat/scale";
    for (method, path, body, code, error, hint) in [
        (Method::GET, "/v1/stats", "", 404, "no route GET /v1/stats", "GET /v1/status"),
        (Method::GET, "/", "", 404, "no route", "GET /v1/status"),
        (Method::GET, "/v1/status/", "", 404, "no route", ""),
        (Method::GET, "/v1/apps/chat/scale/x", "", 404, "no route", ""),
        (Method::POST, "/v1/apps/chatt/scale", r#"{"to": 1}"#, 404, "no app \"chatt\"", "did you mean \"chat\"?"),
        (Method::POST, "/v1/apps/shop/restart", "", 404, "no app \"shop\"", "there is chat, api"),
        (Method::POST, "/v1/apps//restart", "", 404, "no app \"\"", ""),
        (Method::POST, "/v1/status", "", 405, "takes GET, not POST", ""),
        (Method::GET, "/v1/reload", "", 405, "takes POST, not GET", ""),
        (Method::POST, scale, "{to: 4}", 400, "not JSON", "{\"to\": 4}"),
        (Method::POST, scale, "[4]", 400, "no JSON object", "{\"to\": 4}"),
        (Method::POST, scale, "", 400, "\"to\" is missing", "{\"to\": 4}"),
        (Method::POST, scale, r#"{"to": 4, "now": true}"#, 400, "unknown key \"now\"", "{\"to\": 4}"),
        (Method::POST, scale, r#"{"to": 0}"#, 400, "\"0\"", "{\"to\": 4}"),
        (Method::POST, scale, r#"{"to": "many"}"#, 400, "\"many\"", "{\"to\": 4}"),
        (Method::POST, scale, r#"{"to": 1.5}"#, 400, "\"1.5\"", "{\"to\": 4}"),
        (Method::POST, scale, r#"{"to": null}"#, 400, "null", "{\"to\": 4}"),
        (Method::POST, "/v1/reload", r#"{"to": 4}"#, 400, "unknown key \"to\"", "or leave them out"),
        (Method::POST, "/v1/reload", r#"{"app": "chatt"}"#, 404, "no app \"chatt\"", "did you mean \"chat\"?"),
        (Method::POST, "/v1/reload", r#"{"app": 4}"#, 400, "\"app\" is 4", "\"app\": \"NAME\""),
        (Method::POST, "/v1/reload", r#"{"conf": "x.yaml"}"#, 400, "no absolute path", ""),
        (Method::POST, "/v1/reload", r#"{"env": {"A": "1"}}"#, 400, "\"env\" is for one app", "under \"app\""),
        (Method::POST, "/v1/apps/chat/restart", r#"{"env": {"A": 1}}"#, 400, "is no text", "or leave the body out"),
        (Method::POST, "/v1/status", r#"{"env": {}}"#, 405, "takes GET", ""),
    ] {
        let (status, said) = ask(&hands, method.clone(), path, body).await;
        let case = format!("{method} {path} {body}: {said}");
        assert_eq!(status, code, "{case}");
        assert!(said["error"].as_str().unwrap().contains(error), "{case}");
        assert!(hint.is_empty() || said["hint"].as_str().unwrap().contains(hint), "{case}");
    }
    assert!(hands.asked.lock().unwrap().is_empty());
}

#[test]
fn the_metrics_page_is_the_only_one() {
    let mut registry = Registry::default();
    register_process(&mut registry);
    register_build(registry.sub_registry_with_prefix("own"));
    let scrape = Scrape::new(registry);
    let page = scrape.answer(&Method::GET, "/metrics", Some(b"application/openmetrics-text"));
    let text = String::from_utf8(page.body).unwrap();
    assert!(page.kind.starts_with("application/openmetrics-text"));
    for line in ["process_resident_memory_bytes ", "process_cpu_seconds_total ", "process_open_fds ", "own_build_info{"]
    {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    let plain = scrape.answer(&Method::GET, "/metrics", None);
    assert_eq!(plain.kind, "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(scrape.answer(&Method::GET, "/", None).status, 404);
    let refused = scrape.answer(&Method::POST, "/metrics", None);
    assert_eq!((refused.status, refused.allow), (StatusCode::METHOD_NOT_ALLOWED, Some("GET, HEAD")));
}

#[test]
fn the_table_fits_a_terminal_and_steers_none() {
    let text = table::printable(&table::render(&status()));
    let expected = "\
pingora-unix-proxy 1.2.3, pid 4242, up 3d4h

chat: 1 of 2 ready, generation 2
  SLOT     PID STATE       SINCE ACTIVE PARKED SESS ELU  LAG RSS RESTARTS
     0 4194304 ready        1d3h     12   1200 1188 12% 12ms 88M        3
     1       - backing off     -      0      0    -   -    -   -     1207
       exited with code 1; failed 5 times in a row; starts again in 2.3s
       | line 4\u{fffd}
       | line 5\u{fffd}
       | line 6\u{fffd}
       | line 7\u{fffd}
       | line 8\u{fffd}

api: 0 of 1 ready
  SLOT     PID STATE       SINCE ACTIVE PARKED SESS ELU  LAG RSS RESTARTS
     0      77 killing        3s      0      0    -   -    -   -        0
       not ready within 1m0s: its socket does not answer: connection refused,
       and more words than fit on one line of a terminal
";
    assert_eq!(text, expected);
    assert!(text.lines().all(|line| line.chars().count() <= 80));
    assert_eq!(table::printable("a\u{1b}[2Jb\u{1b}]0;t\u{7}\tc\n\u{1b}["), "ab\u{fffd}]0;t\u{fffd}\tc\n");
}

/// A socket in a directory of its own.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pup-admin-{}-{n}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Place(dir)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("admin.sock")
    }

    /// Serves one connection, on a thread.
    fn serve(&self, serve: impl FnOnce(UnixStream) + Send + 'static) -> std::thread::JoinHandle<()> {
        let listener = UnixListener::bind(self.socket()).unwrap();
        std::thread::spawn(move || serve(listener.accept().unwrap().0))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn run(socket: PathBuf, verb: Verb, timeout: Option<Duration>) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = Command { socket, verb, timeout }.run(&mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn read_head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn a_command_without_a_proxy_says_so() {
    let place = Place::new();
    let (code, out, err) = run(place.socket(), Verb::Reload { app: None, conf: None, env: None }, None);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("no proxy runs at") && err.contains("--runtime-dir"), "{err}");
    // A socket that a killed proxy left.
    drop(UnixListener::bind(place.socket()).unwrap());
    let (code, _, err) = run(place.socket(), Verb::Status { json: false }, None);
    assert!(code == 1 && err.contains("no proxy runs at"), "{err}");
}

#[test]
fn a_command_tells_what_the_proxy_said() {
    let place = Place::new();
    let served = place.serve(|mut stream| {
        let head = read_head(&mut stream);
        assert!(head.starts_with("POST /v1/apps/chat/scale HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("Content-Length: 11\r\n"), "{head}");
        let mut body = [0; 11];
        stream.read_exact(&mut body).unwrap();
        assert_eq!(&body, br#"{"to":"+1"}"#);
        let said = r#"{"ok":false,"error":"worker 2 ended\nError: x","hint":"look"}"#;
        write!(stream, "HTTP/1.1 500 x\r\nContent-Length: {}\r\n\r\n{said}", said.len()).unwrap();
        // Still open: the command does not wait for its end.
        let _ = stream.read(&mut [0]);
    });
    let verb = Verb::Scale { app: "chat".to_owned(), to: "+1".to_owned() };
    let (code, out, err) = run(place.socket(), verb, None);
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(err, "pingora-unix-proxy: chat: worker 2 ended\nError: x; look\n");
    served.join().unwrap();
}

#[test]
fn a_silent_or_odd_proxy_is_not_waited_for() {
    let request = Request { method: "GET", path: "/v1/status", body: "" };
    let send = |place: &Place, ms| client::send(&place.socket(), &request, Duration::from_millis(ms));

    let place = Place::new();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let served = place.serve(move |_stream| {
        let _ = wait.recv();
    });
    assert!(matches!(send(&place, 50), Err(Failure::TimedOut { .. })));
    drop(done);
    served.join().unwrap();

    // A byte now and then does not prolong it.
    let place = Place::new();
    let served = place.serve(|mut stream| {
        while stream.write_all(b"H").is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let reply = send(&place, 60);
    assert!(matches!(reply, Err(Failure::TimedOut { .. } | Failure::Odd { .. })), "{reply:?}");
    served.join().unwrap();

    let place = Place::new();
    let served = place.serve(|mut stream| drop(read_head(&mut stream)));
    let reply = send(&place, 5000);
    assert!(matches!(reply, Err(Failure::Ended { .. })), "{reply:?}");
    served.join().unwrap();

    let place = Place::new();
    let served = place.serve(|mut stream| {
        read_head(&mut stream);
        stream.write_all(b"220 mail ready\r\n").unwrap();
    });
    let reply = send(&place, 5000);
    assert!(matches!(reply, Err(Failure::Odd { .. })), "{reply:?}");
    served.join().unwrap();
}

#[test]
fn targets_read_back() {
    for text in ["1", "4", "1024", "+1", "-1", "-1024", "auto"] {
        assert_eq!(Target::parse(text).unwrap().to_string(), text);
    }
    for text in ["", "0", "+0", "-0", "1025", "-1025", "99999", "four", "1.0", " 1", "AUTO"] {
        assert!(Target::parse(text).is_err(), "{text}");
    }
}
