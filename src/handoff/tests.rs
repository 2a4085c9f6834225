//! Both sides in one process, over the real socket.

mod server;

use super::*;
use crate::process::ConnectionTransfer;
use async_trait::async_trait;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

/// A private directory, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pup-handoff-{}-{n}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A file stands for a socket: it can be told from others by what is in it.
fn file(text: &str) -> OwnedFd {
    let mut file = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.write_all(text.as_bytes()).unwrap();
    file.into()
}

fn text(fd: OwnedFd) -> String {
    let mut file = File::from(fd);
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

struct Tunnel(usize, [OwnedFd; 2]);

impl PausedConnection for Tunnel {
    fn to_transfer(&self) -> (Zeroizing<Vec<u8>>, Vec<BorrowedFd<'_>>) {
        (format!("tunnel {}", self.0).into_bytes().into(), self.1.iter().map(AsFd::as_fd).collect())
    }
}

/// What both sides did, in order.
#[derive(Clone, Default)]
struct Deeds(Arc<Mutex<Vec<String>>>);

impl Deeds {
    fn note(&self, deed: impl Into<String>) {
        self.0.lock().unwrap().push(deed.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

struct Old {
    deeds: Deeds,
    tunnels: usize,
    left: Mutex<Option<Released>>,
}

#[async_trait]
impl Predecessor for Old {
    type PausedConnection = Tunnel;

    fn objection(&self, _: Option<u32>) -> Option<String> {
        None
    }

    async fn pause(&self) -> Result<FirstPayload, String> {
        self.deeds.note("pause");
        let sockets = vec![("127.0.0.1:1".to_owned(), file("first")), ("admin.sock".to_owned(), file("second"))];
        Ok(FirstPayload { snapshot: json!({"workers": 3}), lock: file("lock"), sockets })
    }

    async fn disconnect_workers(&self) {
        self.deeds.note("disconnect_workers");
    }

    fn secret(&self) -> Option<Secret> {
        Some(Secret(b"keys".to_vec().into()))
    }

    async fn pause_connections(&self, successor: Capabilities) -> PausedPayload<Tunnel> {
        assert!(successor.tls_tunnels, "it is of this version");
        self.deeds.note("pause_connections");
        let tunnel = |n| Tunnel(n, [file(&format!("client {n}")), file(&format!("worker {n}"))]);
        PausedPayload { tunnels: (0..self.tunnels).map(tunnel).collect(), output: json!("partial") }
    }

    async fn resume(&self, tunnels: Vec<Tunnel>) {
        self.deeds.note(format!("resume {}", tunnels.len()));
    }

    fn in_use(&self) -> Value {
        json!("in_use")
    }

    async fn release(&self, _: u32) -> Released {
        self.deeds.note("release");
        self.left.lock().unwrap().take().unwrap()
    }
}

/// What it cannot do, if anything.
#[derive(Clone, Copy, PartialEq)]
enum Cannot {
    Nothing,
    Bind,
    Ready,
}

struct New {
    deeds: Deeds,
    cannot: Cannot,
    connections: Mutex<Vec<ConnectionTransfer>>,
}

#[async_trait]
impl Successor for New {
    async fn bound(&self) -> Result<(), String> {
        self.deeds.note("bound");
        if self.cannot == Cannot::Bind { Err("no room".into()) } else { Ok(()) }
    }

    async fn ready(&self) -> Result<(), String> {
        self.deeds.note("ready");
        if self.cannot == Cannot::Ready { Err("a worker refuses".into()) } else { Ok(()) }
    }

    fn take_secret(&self, secret: Secret) {
        assert_eq!(format!("{secret:?}"), "Secret(4 bytes)", "what it is stands nowhere");
        self.deeds.note(format!("take_secret {}", String::from_utf8_lossy(&secret.0)));
    }

    async fn stage(&self, tunnels: Vec<ConnectionTransfer>) {
        self.connections.lock().unwrap().extend(tunnels);
    }

    async fn take_ownership(&self, output: Value) {
        let tunnels = self.connections.lock().unwrap().len();
        self.deeds.note(format!("take_ownership {output} {tunnels}"));
    }

    fn report_in_use(&self, _: u32, in_use: Value) {
        self.deeds.note(format!("report_in_use {in_use}"));
    }

    async fn adopt(&self, connections: Vec<ConnectionTransfer>) {
        self.deeds.note(format!("adopt {}", connections.len()));
        self.connections.lock().unwrap().extend(connections);
    }
}

struct Trial {
    dir: Dir,
    deeds: Deeds,
    trigger: HandoffTrigger,
    late: Option<mpsc::Sender<ConnectionTransfer>>,
    /// Dropped: nothing is left of the old one.
    left: Option<oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Trial {
    async fn begin(tunnels: usize) -> Trial {
        Trial::after(tunnels, DrainingPredecessors::new()).await
    }

    /// One that has taken over itself.
    async fn after(tunnels: usize, predecessors: DrainingPredecessors) -> Trial {
        let (dir, deeds) = (Dir::new(), Deeds::default());
        let (late, late_out) = mpsc::channel(8);
        let (left, is_left) = oneshot::channel();
        let finished = tokio::spawn(async move { drop(is_left.await) });
        let released = Released { late: late_out, finished };
        let old = Old { deeds: deeds.clone(), tunnels, left: Mutex::new(Some(released)) };
        let (server, trigger) = HandoffServer::new();
        let path = dir.0.clone();
        let server = tokio::spawn(async move { server.serve(&path, &old, &predecessors).await });
        while std::fs::symlink_metadata(dir.0.join(SOCKET)).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Trial { dir, deeds, trigger, late: Some(late), left: Some(left), server }
    }

    /// A successor on a thread of its own, as it blocks; what it inherited, once the handoff began.
    fn successor(&self) -> oneshot::Receiver<Result<Takeover, Error>> {
        let (path, (tell, told)) = (self.dir.0.clone(), oneshot::channel());
        std::thread::spawn(move || tell.send(take_over(&path)));
        told
    }

    /// Until it is a candidate. All run in this process, so the pid is ours.
    async fn waits(&self) {
        self.trigger.waits(std::process::id()).await;
    }
}

fn new(deeds: &Deeds, cannot: Cannot) -> New {
    New { deeds: deeds.clone(), cannot, connections: Mutex::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_over_once_and_in_order() {
    // More tunnels than fit into one frame.
    const TUNNELS: usize = 350;
    let mut trial = Trial::begin(TUNNELS).await;
    let inherits = trial.successor();
    trial.waits().await;
    let trigger = trial.trigger.clone();
    let outcome = tokio::spawn(async move { trigger.hand_over().await });
    let takeover = inherits.await.unwrap().unwrap();
    assert_eq!(takeover.snapshot, json!({"workers": 3}));
    assert_eq!(text(takeover.lock), "lock");
    let sockets: Vec<_> = takeover.sockets.into_iter().map(|(name, fd)| (name, text(fd))).collect();
    assert_eq!(sockets, [("127.0.0.1:1".into(), "first".into()), ("admin.sock".into(), "second".into())]);

    let successor = Arc::new(new(&trial.deeds, Cannot::Nothing));
    takeover.client.complete(&successor, &DrainingPredecessors::new()).await.unwrap();
    assert_eq!(outcome.await.unwrap().unwrap(), std::process::id());
    let late = trial.late.take().unwrap();
    late.send(ConnectionTransfer { bytes: b"late".to_vec().into(), fds: vec![file("late")] }).await.unwrap();
    drop(late);
    // It is not gone while something is left.
    until(&trial.deeds, "adopt 1").await;
    assert!(!trial.server.is_finished());
    drop(trial.left.take());
    trial.server.await.unwrap().unwrap();
    until(&trial.deeds, "report_in_use null").await;

    let deeds = trial.deeds.all();
    let lends: Vec<_> = deeds.iter().filter(|deed| deed.starts_with("report_in_use")).collect();
    assert_eq!(
        (lends.first().unwrap().as_str(), lends.last().unwrap().as_str()),
        ("report_in_use \"in_use\"", "report_in_use null")
    );
    let own = format!("take_ownership \"partial\" {TUNNELS}");
    // Each side in its order; between `bound` and `ready` they do not wait for each other.
    let of = |which: &[&str]| deeds.iter().map(String::as_str).filter(|deed| which.contains(deed)).collect::<Vec<_>>();
    assert_eq!(
        of(&["pause", "disconnect_workers", "pause_connections", "release"]),
        ["pause", "disconnect_workers", "pause_connections", "release"]
    );
    assert_eq!(of(&["pause", "bound", "ready", "take_secret keys"]), ["pause", "bound", "ready", "take_secret keys"]);
    assert!(deeds.contains(&"release".to_owned()) && deeds.contains(&own) && deeds.contains(&"adopt 1".to_owned()));
    let connections = std::mem::take(&mut *successor.connections.lock().unwrap());
    assert_eq!(connections.len(), TUNNELS + 1);
    for (n, connection) in connections.into_iter().enumerate() {
        let bytes = String::from_utf8(connection.bytes.to_vec()).unwrap();
        let fds: Vec<String> = connection.fds.into_iter().map(text).collect();
        match n {
            TUNNELS => assert_eq!((bytes, fds), ("late".into(), vec!["late".into()])),
            n => assert_eq!((bytes, fds), (format!("tunnel {n}"), vec![format!("client {n}"), format!("worker {n}")])),
        }
    }
}

async fn until(deeds: &Deeds, wanted: &str) {
    let seen = async {
        while !deeds.all().iter().any(|deed| deed == wanted) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap_or_else(|_| panic!("{wanted}: {:?}", deeds.all()));
}

/// Hands over from one to the next; what the next did goes to `deeds`.
async fn hands_over(trial: &Trial, deeds: &Deeds, predecessors: &DrainingPredecessors) -> Arc<New> {
    let inherits = trial.successor();
    trial.waits().await;
    let trigger = trial.trigger.clone();
    let outcome = tokio::spawn(async move { trigger.hand_over().await });
    let takeover = inherits.await.unwrap().unwrap();
    let successor = Arc::new(new(deeds, Cannot::Nothing));
    takeover.client.complete(&successor, predecessors).await.unwrap();
    outcome.await.unwrap().unwrap();
    successor
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_from_the_first_reaches_the_third() {
    let (second, third) = (Deeds::default(), Deeds::default());
    let predecessors = DrainingPredecessors::new();
    let mut one = Trial::begin(0).await;
    hands_over(&one, &second, &predecessors).await;
    let mut two = Trial::after(0, predecessors).await;
    let successor = hands_over(&two, &third, &DrainingPredecessors::new()).await;
    // Nothing is left of the second, which the first needs no more.
    drop((two.late.take(), two.left.take()));
    two.server.await.unwrap().unwrap();
    let late = one.late.take().unwrap();
    late.send(ConnectionTransfer { bytes: b"late".to_vec().into(), fds: vec![file("late")] }).await.unwrap();
    until(&third, "adopt 1").await;
    assert_eq!(text(successor.connections.lock().unwrap().pop().unwrap().fds.pop().unwrap()), "late");
    let is_lent = |deeds: &Deeds| deeds.all().into_iter().rfind(|deed| deed.starts_with("report_in_use"));
    assert_eq!(is_lent(&second).unwrap(), "report_in_use null", "the third has it");
    drop((late, one.left.take()));
    one.server.await.unwrap().unwrap();
    until(&third, "report_in_use null").await;
    assert!(!second.all().contains(&"adopt 1".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_dies_does_not_end_what_is_left() {
    let mut trial = Trial::begin(0).await;
    let predecessors = DrainingPredecessors::new();
    hands_over(&trial, &Deeds::default(), &predecessors).await;
    // Its end of the conversation goes.
    drop(predecessors.take().await);
    let late = trial.late.take().unwrap();
    // The first may still be sent.
    while late.send(ConnectionTransfer { bytes: b"late".to_vec().into(), fds: vec![file("late")] }).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!trial.server.is_finished());
    drop(trial.left.take());
    trial.server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_word_is_said_and_heard_or_neither() {
    let pair = || {
        let (a, b) = tokio::net::UnixStream::pair().unwrap();
        (wire::Channel::new(a), wire::Channel::new(b))
    };
    let committed = |heard| matches!(heard, Ok(wire::Frame::Message(message::Message::Committed, _)));
    let (mut old, mut successor) = pair();
    successor.say(&message::Message::Committed).await.unwrap();
    assert!(committed(old.last_word().await), "said before");
    let (mut old, mut successor) = pair();
    assert!(matches!(old.last_word().await, Ok(wire::Frame::End)));
    successor.say(&message::Message::Committed).await.unwrap_err();
    // The other direction stays.
    old.say(&message::Message::Ready).await.unwrap();
    assert!(matches!(successor.hear().await.unwrap(), wire::Frame::Message(message::Message::Ready, _)));
}

/// The successor is in this process, so it must leave by itself: nobody may be killed here.
async fn fails(cannot: Cannot, told: &str, thawed: &str) {
    let trial = Trial::begin(2).await;
    let inherits = trial.successor();
    trial.waits().await;
    let trigger = trial.trigger.clone();
    let outcome = tokio::spawn(async move { trigger.hand_over().await });
    let takeover = inherits.await.unwrap().unwrap();
    let went = takeover.client.complete(&Arc::new(new(&trial.deeds, cannot)), &DrainingPredecessors::new()).await;
    assert!(went.is_err());
    let why = tokio::time::timeout(Duration::from_secs(30), outcome).await.unwrap().unwrap().unwrap_err();
    assert!(why.to_string().contains(told), "{why}");
    assert!(trial.deeds.all().contains(&thawed.to_owned()), "{:?}", trial.deeds.all());
    assert!(!trial.deeds.all().iter().any(|deed| deed.starts_with("take_ownership") || deed == "release"));
    trial.server.abort();
}

// The other process is this one, so it must not be killed for lingering: it leaves at once when told.
#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_cannot_go_on_changes_nothing() {
    fails(Cannot::Bind, "no room", "resume 0").await;
    fails(Cannot::Ready, "a worker refuses", "resume 0").await;
}
