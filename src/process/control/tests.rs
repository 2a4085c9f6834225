//! The server with hand-made workers.

use super::message::{LONGEST_HELLO, LONGEST_LINE};
use super::*;
use crate::process::tests::Temp;
use crate::worker::{Incarnation, Slot};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);

struct Stage {
    temp: Temp,
    registry: Registry,
    reports: mpsc::Receiver<Reported>,
    token: Token,
    server: AbortHandle,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn id() -> WorkerId {
    WorkerId { app: "chat".into(), slot: Slot(1), incarnation: Incarnation(7) }
}

impl Stage {
    fn new() -> Stage {
        Stage::for_user(rustix::process::geteuid().as_raw())
    }

    fn for_user(uid: u32) -> Stage {
        let temp = Temp::new();
        let (reports_in, reports) = mpsc::channel(100);
        let registry = Registry::new(reports_in);
        let listener = bind(&temp.0.join("control.sock"), false).unwrap();
        let server = tokio::spawn(serve(listener, registry.clone())).abort_handle();
        let token = Token::random().unwrap();
        let socket = "/w/chat.1.7.sock".into();
        registry.expect(Expected { id: id(), token: token.clone(), uid, socket });
        Stage { temp, registry, reports, token, server }
    }

    fn hello(&self) -> Value {
        let token = self.token.as_str();
        json!({"type": "hello", "protocol": 1, "app": "chat", "slot": 1, "incarnation": 7, "token": token,
               "pid": 4711, "node": "20.20.2", "tag": "aBc", "later": {"unknown": true}})
    }

    async fn dial(&self) -> Dialled {
        let stream = UnixStream::connect(self.temp.0.join("control.sock")).await.unwrap();
        Dialled(BufReader::new(stream))
    }

    /// A worker that was let in.
    async fn worker(&mut self, pid: u32) -> Dialled {
        let mut worker = self.dial().await;
        let mut hello = self.hello();
        hello["pid"] = pid.into();
        worker.say(&hello).await;
        assert_eq!(worker.hear().await, json!({"type": "welcome"}));
        worker
    }

    async fn report(&mut self) -> Report {
        let (who, report) = timeout(LIMIT, self.reports.recv()).await.expect("no report").unwrap();
        assert_eq!(who, id());
        report
    }

    async fn refused(&mut self, change: impl FnOnce(&mut Value)) -> String {
        let mut hello = self.hello();
        change(&mut hello);
        let mut worker = self.dial().await;
        worker.say(&hello).await;
        let answer = worker.hear().await;
        assert_eq!(answer["type"], "refused");
        worker.is_closed().await;
        assert!(self.reports.try_recv().is_err());
        answer["reason"].as_str().unwrap().to_owned()
    }
}

struct Dialled(BufReader<UnixStream>);

impl Dialled {
    async fn say(&mut self, what: &Value) {
        self.raw(format!("{what}\n").as_bytes()).await;
    }

    async fn raw(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        timeout(LIMIT, self.0.read_line(&mut line)).await.expect("nothing said").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn is_closed(&mut self) {
        let mut rest = Vec::new();
        let _ = timeout(LIMIT, self.0.read_to_end(&mut rest)).await.expect("still open");
    }
}

#[tokio::test]
async fn a_worker_says_all_it_can() {
    let mut stage = Stage::new();
    let mut worker = stage.worker(4711).await;
    // As the kernel has it: a worker may say anything.
    assert_eq!(stage.report().await, Report::Hello { pid: Some(std::process::id()), node: Some("20.20.2".into()) });
    worker.say(&json!({"type": "path", "path": "/w/chat.1.7-9000.sock", "port": 9000, "main": false})).await;
    worker.say(&json!({"type": "path", "path": "/w/chat.1.7.sock", "port": null, "main": true})).await;
    assert_eq!(
        stage.report().await,
        Report::Path { socket: "/w/chat.1.7.sock".into(), port: None, pid: Some(std::process::id()) }
    );
    worker.say(&json!({"type": "of a later version", "x": 1})).await;
    worker.say(&json!({"type": "ready"})).await;
    assert_eq!(stage.report().await, Report::Ready);
    worker.say(&json!({"type": "stats", "elu": 0.5, "rss": 1000})).await;
    assert_eq!(stage.report().await, Report::Stats(Stats { elu: 0.5, rss: 1000, ..Stats::default() }));
    worker.say(&json!({"type": "engine", "paths": ["/socket.io/"], "sessions": 2})).await;
    assert_eq!(stage.report().await, Report::Engine { paths: vec!["/socket.io/".into()], sessions: 2 });
    worker.say(&json!({"type": "engine", "paths": []})).await;
    assert_eq!(stage.report().await, Report::Engine { paths: vec![], sessions: 2 });
    worker.say(&json!({"type": "message", "data": {"a": [1, "é"]}})).await;
    assert_eq!(stage.report().await, Report::Message(json!({"a": [1, "é"]})));
    worker.say(&json!({"type": "closed", "path": "/w/chat.1.7.sock"})).await;
    assert_eq!(stage.report().await, Report::PathClosed);
    drop(worker);
    assert_eq!(stage.report().await, Report::HungUp);
}

#[tokio::test]
async fn a_worker_hears_what_it_is_told() {
    let mut stage = Stage::new();
    assert!(!stage.registry.send_first(&id(), &ProxySays::Shutdown));
    let (mut first, mut second) = (stage.worker(1).await, stage.worker(2).await);
    assert!(stage.registry.send_first(&id(), &ProxySays::Message { data: json!("hi") }));
    assert_eq!(stage.registry.send_all(&id(), &ProxySays::Shutdown), 2);
    assert_eq!(first.hear().await, json!({"type": "message", "data": "hi"}));
    assert_eq!(first.hear().await, json!({"type": "shutdown"}));
    assert_eq!(second.hear().await, json!({"type": "shutdown"}));
    stage.registry.forget(&id());
    first.is_closed().await;
    second.is_closed().await;
}

#[tokio::test]
async fn strangers_are_refused_and_told_why() {
    let mut stage = Stage::new();
    assert_eq!(stage.refused(|h| h["token"] = json!("0".repeat(32))).await, "wrong token");
    assert_eq!(stage.refused(|h| h["token"] = json!("")).await, "wrong token");
    assert_eq!(stage.refused(|h| h["slot"] = json!(0)).await, "no worker chat[0] #7 is expected");
    assert_eq!(stage.refused(|h| h["incarnation"] = json!(8)).await, "no worker chat[1] #8 is expected");
    assert_eq!(stage.refused(|h| h["app"] = json!("x")).await, "no worker x[1] #7 is expected");
    assert_eq!(stage.refused(|h| h["protocol"] = json!(2)).await, "protocol 2 is not spoken here, 1 is");
    assert_eq!(stage.refused(|h| h["type"] = json!("ready")).await, "the first line must be a hello");
    assert!(stage.refused(|h| h["pid"] = json!("x")).await.starts_with("bad hello: "));

    let stage = Stage::for_user(12345);
    let mut stranger = stage.dial().await;
    let answer = stranger.hear().await;
    assert!(answer["reason"].as_str().unwrap().starts_with("no worker of user "), "{answer}");
    stranger.is_closed().await;

    // Another worker's user is not this one's.
    let mut stage = Stage::for_user(12345);
    let other = WorkerId { incarnation: Incarnation(8), ..id() };
    let uid = rustix::process::geteuid().as_raw();
    stage.registry.expect(Expected { id: other, token: Token::random().unwrap(), uid, socket: "/x.sock".into() });
    assert!(stage.refused(|_| ()).await.ends_with("is not the worker's user"));
}

#[tokio::test]
async fn a_line_has_a_limit() {
    let mut stage = Stage::new();
    let mut stranger = stage.dial().await;
    let _ = stranger.0.get_mut().write_all(&vec![b'x'; LONGEST_HELLO + 70_000]).await;
    stranger.is_closed().await;

    let mut worker = stage.worker(1).await;
    stage.report().await;
    let data = "y".repeat(LONGEST_LINE - 100);
    worker.say(&json!({"type": "message", "data": data})).await;
    assert_eq!(stage.report().await, Report::Message(json!(data)));
    let _ = worker.0.get_mut().write_all(&vec![b'z'; LONGEST_LINE + 70_000]).await;
    assert_eq!(stage.report().await, Report::HungUp);
    worker.is_closed().await;
}

#[tokio::test]
async fn nonsense_ends_the_connection_and_nothing_else() {
    let mut stage = Stage::new();
    for nonsense in [
        &b"{\n"[..],
        b"\xff\xfe\n",
        b"{\"type\":\"path\",\"path\":\"/run/docker.sock\",\"main\":true}\n",
        b"{\"type\":\"engine\",\"paths\":[\"socket.io/\"]}\n",
    ] {
        let mut worker = stage.worker(1).await;
        stage.report().await;
        worker.raw(nonsense).await;
        assert_eq!(stage.report().await, Report::HungUp);
        worker.is_closed().await;
    }
    stage.worker(1).await;
}

#[tokio::test]
async fn a_redial_replaces_the_old_connection() {
    let mut stage = Stage::new();
    let mut old = stage.worker(1).await;
    stage.report().await;
    old.say(&json!({"type": "path", "path": "/w/chat.1.7.sock", "main": true})).await;
    assert!(matches!(stage.report().await, Report::Path { .. }));
    let mut new = stage.worker(1).await;
    old.is_closed().await;
    new.say(&json!({"type": "path", "path": "/w/chat.1.7.sock", "main": true})).await;
    new.say(&json!({"type": "ready"})).await;
    // No new path, and nobody hung up.
    assert_eq!(stage.report().await, Report::Ready);
    assert_eq!(stage.registry.send_all(&id(), &ProxySays::Shutdown), 1);
    assert_eq!(new.hear().await, json!({"type": "shutdown"}));
}

#[tokio::test]
async fn who_does_not_listen_loses_what_is_too_much() {
    let mut stage = Stage::new();
    let worker = stage.worker(1).await;
    stage.report().await;
    let data = json!("x".repeat(100_000));
    let sent = (0..100).filter(|_| stage.registry.send_first(&id(), &ProxySays::Message { data: data.clone() }));
    // 4 MiB wait, and a little is in the socket.
    assert!((40..60).contains(&sent.count()));
    drop(worker);
    assert_eq!(stage.report().await, Report::HungUp);
}

#[tokio::test]
async fn who_says_nothing_is_cut_off() {
    let stage = Stage::new();
    let mut silent = stage.dial().await;
    tokio::time::pause();
    silent.is_closed().await;
}
