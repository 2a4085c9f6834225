//! Who is expected, and who is connected.

use super::links::{LinkId, Links, Who};
use super::message::{Hello, PROTOCOL, PortState, ProxySays, Stats, Why};
use super::pace::Pace;
use super::{Report, Reported};
use crate::worker::{Incarnation, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};

/// A worker's secret: 128 random bits in hexadecimal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Token(String);

impl Token {
    /// From the kernel's random numbers.
    pub(crate) fn random() -> io::Result<Token> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Token(bytes.iter().map(|b| format!("{b:02x}")).collect()))
    }

    /// Of a worker that brought its own.
    pub(super) fn parse(text: &str) -> Option<Token> {
        let fits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 32 && text.bytes().all(fits)).then(|| Token(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// In a time that does not tell how much of it is right.
    fn is(&self, other: &str) -> bool {
        let differ = self.0.bytes().zip(other.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(differ) == 0 && self.0.len() == other.len()
    }
}

impl TryFrom<String> for Token {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Token, &'static str> {
        let fits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then_some(Token(text)).ok_or("a token has 32 hexadecimal digits")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A worker that may dial in.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) id: WorkerId,
    pub(crate) token: Token,
    /// User that its processes run as.
    pub(crate) uid: u32,
    /// Its main socket; a second server's is this with `-PORT` before `.sock`.
    pub(crate) socket: PathBuf,
}

/// All workers that may dial in, and the connections of those that did.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    inner: Arc<Mutex<Entries>>,
    settled: Arc<Mutex<Settled>>,
    reports: mpsc::Sender<Reported>,
}

/// The port of the main server of each app, as its workers have it.
type Settled = HashMap<Arc<str>, u16>;

type Entries = HashMap<(Arc<str>, Incarnation), Entry>;

#[derive(Debug)]
struct Entry {
    expected: Expected,
    links: Links,
    senders: HashMap<LinkId, Sender>,
    pace: Pace,
}

#[derive(Debug)]
struct Sender {
    lines: mpsc::Sender<Vec<u8>>,
    /// Bytes that wait.
    waiting: Arc<AtomicUsize>,
    /// The port of the main server that it knows of, 0 if none; `None` if it would not understand.
    settled: Option<u16>,
    /// Dropped or set: the connection ends.
    #[allow(dead_code)] // held: dropping it is what tells
    end: watch::Sender<bool>,
}

/// The connection's own end of [`Sender`].
pub(super) struct Inbox {
    pub(super) lines: Lines,
    /// Changes or closes when the connection must end: it was superseded, or the worker is gone.
    pub(super) end: watch::Receiver<bool>,
    /// At which it is listened to.
    pub(super) pace: Pace,
}

pub(super) struct Lines {
    queue: mpsc::Receiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

/// Lines, and bytes in them, that may wait for one connection. A worker that does not read loses
/// what comes then.
const QUEUE: usize = 1000;
const QUEUE_BYTES: usize = 4 * 1024 * 1024;

impl Sender {
    fn offer(&self, line: &[u8]) -> bool {
        // Lines are offered under the registry's lock: nobody else adds meanwhile.
        if self.waiting.load(Ordering::Relaxed) + line.len() > QUEUE_BYTES {
            return false;
        }
        self.waiting.fetch_add(line.len(), Ordering::Relaxed);
        self.lines.try_send(line.to_owned()).inspect_err(|_| self.take_off(line.len())).is_ok()
    }

    fn take_off(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Lines {
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        let line = self.queue.recv().await?;
        self.waiting.fetch_sub(line.len(), Ordering::Relaxed);
        Some(line)
    }
}

impl Registry {
    /// `reports` gets what workers say. When it is full, their connections wait.
    pub(crate) fn new(reports: mpsc::Sender<Reported>) -> Registry {
        Registry { inner: Arc::default(), settled: Arc::default(), reports }
    }

    pub(crate) fn expect(&self, expected: Expected) {
        self.expect_again(expected, None);
    }

    /// A worker that dialled in to an earlier proxy; it serves at `main`, which is no news when it says so again.
    pub(crate) fn expect_again(&self, expected: Expected, main: Option<Arc<str>>) {
        let key = (expected.id.app.clone(), expected.id.incarnation);
        let entry = Entry { expected, links: Links::serving_at(main), senders: HashMap::new(), pace: Pace::default() };
        self.lock().insert(key, entry);
    }

    /// The worker is gone: its connections end.
    pub(crate) fn forget(&self, id: &WorkerId) {
        self.lock().remove(&(id.app.clone(), id.incarnation));
    }

    /// The worker of this app that has this token.
    pub(crate) fn find(&self, app: &str, token: &Token) -> Option<Expected> {
        let inner = self.lock();
        let mut of_app = inner.values().filter(|entry| *entry.expected.id.app == *app);
        of_app.find(|entry| entry.expected.token.is(token.as_str())).map(|entry| entry.expected.clone())
    }

    /// Ends all connections; workers dial in again.
    pub(crate) fn hang_up(&self) {
        let mut gone = Vec::new();
        for entry in self.lock().values_mut() {
            entry.senders.clear();
            if entry.links.clear() {
                gone.push(entry.expected.id.clone());
            }
        }
        for id in gone {
            // The supervisor may be the one who asks: it must not wait for itself.
            if self.reports.try_send((id.clone(), Report::HungUp)).is_err() {
                log::debug!("{id}: its hang-up is not told, too much is");
            }
        }
    }

    /// Whether any expected worker runs as this user.
    pub(super) fn knows_user(&self, uid: u32) -> bool {
        self.lock().values().any(|entry| entry.expected.uid == uid)
    }

    /// Sends to every connection of a worker; returns how many took it.
    pub(crate) fn send_all(&self, id: &WorkerId, says: &ProxySays) -> usize {
        self.send(id, says, |_, _| true)
    }

    /// Sends to the process that speaks for the worker; returns whether it took it.
    #[cfg(test)]
    pub(super) fn send_first(&self, id: &WorkerId, says: &ProxySays) -> bool {
        self.send(id, says, |links, link| links.is_first(link)) > 0
    }

    fn send(&self, id: &WorkerId, says: &ProxySays, to: impl Fn(&Links, LinkId) -> bool) -> usize {
        let Some(line) = says.to_line() else { return 0 };
        let inner = self.lock();
        let Some(entry) = inner.get(&(id.app.clone(), id.incarnation)) else { return 0 };
        let links = entry.links.ids().filter(|link| to(&entry.links, *link));
        let senders = links.filter_map(|link| entry.senders.get(&link));
        senders.filter(|sender| sender.offer(&line)).count()
    }

    /// Lets a connection in, or says why not.
    ///
    /// `peer` is who has connected, as the kernel tells it: its user, and its number if it has one here.
    pub(super) async fn open(
        &self,
        link: LinkId,
        hello: &Hello,
        (uid, pid): (u32, Option<u32>),
    ) -> Result<(WorkerId, Inbox), String> {
        if hello.protocol != PROTOCOL {
            return Err(format!("protocol {} is not spoken here, {PROTOCOL} is", hello.protocol));
        }
        let (lines, lines_in) = mpsc::channel(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let (end, end_in) = watch::channel(false);
        let (id, report, pace) = {
            let mut inner = self.lock();
            let key = (Arc::from(hello.app.as_str()), Incarnation(hello.incarnation));
            let unknown =
                || format!("no worker {}[{}] #{} is expected", hello.app.escape_debug(), hello.slot, hello.incarnation);
            let entry = inner.get_mut(&key).filter(|e| e.expected.id.slot.0 == hello.slot).ok_or_else(unknown)?;
            if entry.expected.uid != uid {
                return Err(format!("user {uid} is not the worker's user"));
            }
            if !entry.expected.token.is(&hello.token) {
                return Err("wrong token".to_owned());
            }
            let first = entry.senders.is_empty();
            for old in entry.links.open(link, Who { pid: hello.pid, thread: hello.thread }, pid)? {
                entry.senders.remove(&old);
            }
            entry.senders.insert(link, Sender { lines, waiting: waiting.clone(), settled: hello.settled, end });
            let report = first.then(|| Report::Hello { pid, node: hello.node.clone() });
            (entry.expected.id.clone(), report, entry.pace.clone())
        };
        self.report(&id, report).await;
        Ok((id, Inbox { lines: Lines { queue: lines_in, waiting }, end: end_in, pace }))
    }

    /// How many apps have workers that may dial in.
    pub(super) fn apps(&self) -> usize {
        self.lock().keys().map(|(app, _)| app).collect::<HashSet<_>>().len()
    }

    /// `main` says why, if the server is the main one.
    pub(super) async fn path(
        &self,
        id: &WorkerId,
        link: LinkId,
        (path, port): (&str, Option<u16>),
        main: Option<Why>,
    ) -> Result<(), String> {
        let report = {
            let mut inner = self.lock();
            let Some(entry) = inner.get_mut(&(id.app.clone(), id.incarnation)) else { return Ok(()) };
            if !is_own_socket(&entry.expected.socket, path) {
                return Err(format!("{path:?} is not one of its sockets"));
            }
            let main = main.filter(|why| self.settles(entry, link, port, *why));
            entry.links.path(link, path, port, main)
        };
        self.report(id, report).await;
        Ok(())
    }

    /// The port of the main server, as workers of the app have it now.
    pub(crate) fn settled(&self, app: &str) -> Option<u16> {
        self.settled.lock().unwrap_or_else(|e| e.into_inner()).get(app).copied()
    }

    /// Whether a server may be the main one. Workers that start together may find different servers first: one that
    /// differs is told what the others have, and is believed if it insists.
    fn settles(&self, entry: &mut Entry, link: LinkId, port: Option<u16>, why: Why) -> bool {
        let (Some(port), id) = (port, &entry.expected.id) else { return true };
        let mut all = self.settled.lock().unwrap_or_else(|e| e.into_inner());
        let settled = *all.entry(id.app.clone()).or_insert(port);
        if settled == port {
            return true;
        }
        if let Some(sender) = entry.senders.get_mut(&link)
            && why != Why::Port
            && sender.settled.is_some_and(|known| known != settled)
        {
            sender.settled = Some(settled);
            let says = ProxySays::Settled { port: settled };
            return !says.to_line().is_some_and(|line| sender.offer(&line));
        }
        log::warn!("{id}: its main server is the one on port {port}; in other workers it was the one on {settled}");
        all.insert(id.app.clone(), port);
        true
    }

    pub(super) async fn closed(&self, id: &WorkerId, link: LinkId, path: &str) {
        self.report(id, self.change(id, |links| links.closed(link, path))).await;
    }

    pub(super) async fn close(&self, id: &WorkerId, link: LinkId) {
        let (report, engine) = {
            let mut inner = self.lock();
            let Some(entry) = inner.get_mut(&(id.app.clone(), id.incarnation)) else { return };
            entry.senders.remove(&link);
            (entry.links.close(link), entry.links.engine_news(false))
        };
        self.report(id, engine).await;
        self.report(id, report).await;
    }

    pub(super) async fn port(&self, id: &WorkerId, link: LinkId, port: u16, state: PortState) {
        self.report(id, self.change(id, |links| links.port(link, port, state))).await;
    }

    pub(super) async fn stats(&self, id: &WorkerId, link: LinkId, stats: Stats) {
        self.report(id, self.change(id, |links| links.stats(link, stats))).await;
    }

    pub(super) async fn engine(
        &self,
        id: &WorkerId,
        link: LinkId,
        paths: Vec<String>,
        sessions: Option<u64>,
    ) -> Result<(), String> {
        let report = {
            let mut inner = self.lock();
            let Some(entry) = inner.get_mut(&(id.app.clone(), id.incarnation)) else { return Ok(()) };
            entry.links.engine(link, paths, sessions)?
        };
        self.report(id, report).await;
        Ok(())
    }

    fn change(&self, id: &WorkerId, change: impl FnOnce(&mut Links) -> Option<Report>) -> Option<Report> {
        self.lock().get_mut(&(id.app.clone(), id.incarnation)).and_then(|entry| change(&mut entry.links))
    }

    pub(super) async fn report(&self, id: &WorkerId, report: Option<Report>) {
        if let Some(report) = report {
            // The supervisor is gone: nobody is left to be told.
            let _ = self.reports.send((id.clone(), report)).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A worker must not lead our traffic to somebody else's socket.
pub(crate) fn is_own_socket(main: &std::path::Path, path: &str) -> bool {
    let Some(stem) = main.to_str().and_then(|main| main.strip_suffix(".sock")) else { return false };
    let Some(middle) = path.strip_prefix(stem).and_then(|rest| rest.strip_suffix(".sock")) else { return false };
    let number = |part: &str| part.parse::<u16>().is_ok();
    // One port on two addresses makes `-PORT-2`.
    let numbers = |rest: &str| rest.split_once('-').map_or(number(rest), |(port, n)| number(port) && number(n));
    middle.is_empty() || middle.strip_prefix('-').is_some_and(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_sockets() {
        let main = std::path::Path::new("/run/w/chat.0.1.sock");
        for (path, own) in [
            ("/run/w/chat.0.1.sock", true),
            ("/run/w/chat.0.1-3000.sock", true),
            ("/run/w/chat.0.1-3000-2.sock", true),
            ("/run/w/chat.0.1-3000-2-3.sock", false),
            ("/run/w/chat.0.12.sock", false),
            ("/run/w/chat.0.1-../../x.sock", false),
            ("/run/docker.sock", false),
            ("", false),
        ] {
            assert_eq!(is_own_socket(main, path), own, "{path}");
        }
    }

    #[test]
    fn tokens_differ_and_compare_whole() {
        let (a, b) = (Token::random().unwrap(), Token::random().unwrap());
        assert_ne!(a, b);
        assert!(a.is(a.as_str()) && !a.is(b.as_str()) && !a.is("") && !a.is(&a.as_str()[..31]));
        assert!(!format!("{a:?}").contains(a.as_str()));
    }
}
