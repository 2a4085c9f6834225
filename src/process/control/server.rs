//! Accepts and serves control connections.

use super::Report;
use super::callers::Callers;
use super::complaints::{About, Complaints};
use super::external::{Door, Turned};
use super::links::LinkId;
use super::message::{self, LONGEST_HELLO, LONGEST_LINE, PortState, ProxySays, WorkerSays};
use super::places::{Place, Places, Ungreeted};
use super::registry::{Inbox, Registry};
use crate::process::Error;
use crate::worker::WorkerId;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, UCred};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// From connect to hello.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// For one line to go out. Who does not read for so long loses the connection, and redials.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Binds the control socket. `shared`: also for workers of other users, who must then prove
/// themselves by their credentials and token like all others. Needs a Tokio runtime.
pub(crate) fn bind(path: &Path, shared: bool) -> Result<UnixListener, Error> {
    let failed = || Error::io(format!("binding {}", path.display()));
    let listener = UnixListener::bind(path).map_err(failed())?;
    // The sticky bit on a file keeps systemd-tmpfiles away, to which a socket that was renamed seems dead.
    let mode = if shared { 0o1666 } else { 0o1600 };
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed())?;
    Ok(listener)
}

/// Binds beside the path first and takes its place at once, whoever is bound there: no worker that dials in
/// finds nobody. Needs a Tokio runtime.
pub(crate) fn bind_over(path: &Path, shared: bool) -> Result<UnixListener, Error> {
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let failed = || Error::io(format!("binding {}", path.display()));
    let removed = std::fs::remove_file(&beside);
    removed.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }).map_err(failed())?;
    let listener = bind(&beside, shared)?;
    if let Err(e) = std::fs::rename(&beside, path) {
        // It is ours, and of no use.
        drop(std::fs::remove_file(&beside));
        return Err(failed()(e));
    }
    Ok(listener)
}

/// Serves the workers that we started, until dropped.
pub(crate) async fn serve(listener: UnixListener, registry: Registry) {
    serve_at(listener, registry, None).await;
}

/// Serves the workers that somebody else started, until dropped.
pub(crate) async fn serve_external(listener: UnixListener, registry: Registry, door: Arc<Door>) {
    serve_at(listener, registry, Some(door)).await;
}

async fn serve_at(listener: UnixListener, registry: Registry, door: Option<Arc<Door>>) {
    let places = Places::new();
    let mut ungreeted = Ungreeted::new();
    let mut connections = tokio::task::JoinSet::new();
    let mut complaints = Complaints::default();
    let mut callers = Callers::new(Instant::now());
    let mut next: LinkId = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Ok(peer) = stream.peer_cred() else { continue };
                    // Before anything is spent on it.
                    if let Err(why) = callers.admit(&peer, Instant::now()) {
                        let about = About::User(peer.uid());
                        if let Some(why) = why.filter(|_| complaints.may_be_said(about, Instant::now())) {
                            log::warn!("control channel: {why}; it is not heard for the rest of the second");
                        }
                        continue;
                    }
                    next += 1;
                    let (registry, door, places) = (registry.clone(), door.clone(), places.clone());
                    let caller = Caller { peer, link: next, leaving: ungreeted.enter(), places };
                    connections.spawn(async move { connection(stream, caller, &registry, door.as_deref()).await });
                }
                Err(e) => {
                    // Out of file descriptors, most likely; accepting at once would spin.
                    log::error!("control channel: cannot accept: {e}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Ok(Err((about, why))) = ended && complaints.may_be_said(about, Instant::now()) {
                    log::warn!("control channel: {why}");
                }
            }
            () = sleep_until(complaints.due()) => complaints.tell_rest(Instant::now()),
        }
    }
}

/// Who has dialled in.
struct Caller {
    peer: UCred,
    link: LinkId,
    /// Others need its place, if it has not said who it is.
    leaving: oneshot::Receiver<()>,
    places: Places,
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn connection(
    stream: UnixStream,
    caller: Caller,
    registry: &Registry,
    door: Option<&Door>,
) -> Result<(), (About, String)> {
    let Caller { peer, link, leaving, places } = caller;
    let (who, about) = (Name(&peer), About::User(peer.uid()));
    let of_user = |why: String| (about.clone(), why);
    let (reader, mut writer) = stream.into_split();
    let known = door.map_or_else(|| registry.knows_user(peer.uid()), |door| door.knows_user(peer.uid()));
    if !known {
        // At once: a stranger must not hold a place.
        let why = format!("no worker of user {} is expected", peer.uid());
        return Err(of_user(refuse(&mut writer, &who, why).await));
    }
    let mut reader = BufReader::new(reader);
    let first = tokio::select! {
        first = timeout(HELLO_LIMIT, line(&mut reader, LONGEST_HELLO)) => first,
        Ok(()) = leaving => return Err(of_user(format!("{who} said no hello, and others needed its place"))),
    };
    let first = match first {
        Err(_) => return Err(of_user(format!("{who} said no hello within {HELLO_LIMIT:?}"))),
        // A probe of the socket.
        Ok(Ok(None)) => return Ok(()),
        Ok(Ok(Some(line))) => line,
        Ok(Err(e)) => return Err(of_user(format!("{who}: {e}"))),
    };
    match admit(&first, (link, &peer), registry, door, &places).await {
        Err(Turned::Away(reason)) => Err(of_user(refuse(&mut writer, &who, reason).await)),
        Err(Turned::Later(why)) => {
            log::debug!("{who} is to try again: {why}");
            Ok(())
        }
        Ok(Admitted { id, inbox, worker, place }) => {
            let talk = Talk { registry, door, id: &id, link };
            let served = match place {
                Some(_place) => talk.converse(reader, writer, inbox, worker).await,
                // It redials.
                None => Err("its app has as many connections as it may have".to_owned()),
            };
            registry.close(&id, link).await;
            served.map_err(|why| (About::App(id.app.clone()), format!("{id}: {why}")))
        }
    }
}

struct Admitted {
    id: WorkerId,
    inbox: Inbox,
    /// What the proxy makes of one that somebody else has started.
    worker: Option<message::Place>,
    place: Option<Place>,
}

async fn admit(
    first: &[u8],
    (link, peer): (LinkId, &UCred),
    registry: &Registry,
    door: Option<&Door>,
    places: &Places,
) -> Result<Admitted, Turned> {
    // A process of another PID namespace has no number here.
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    let (id, inbox, worker) = match (serde_json::from_slice(first), door) {
        (Ok(WorkerSays::Hello(hello)), None) => {
            let (id, inbox) = registry.open(link, &hello, (peer.uid(), pid)).await?;
            (id, inbox, None)
        }
        (Ok(WorkerSays::Join(asks)), Some(door)) => {
            let (id, inbox, worker) = door.admit(registry, link, asks, (peer.uid(), pid)).await?;
            (id, inbox, Some(worker))
        }
        (Ok(_), Some(_)) => return Err("the first line must be a join".into()),
        (Ok(_), None) => return Err("the first line must be a hello".into()),
        (Err(e), _) => return Err(format!("bad hello: {e}").into()),
    };
    // Each app of external workers has a socket, and so places, of its own.
    let apps = if door.is_some() { 1 } else { registry.apps() };
    let place = places.take(&id.app, apps);
    Ok(Admitted { id, inbox, worker, place })
}

/// A process, for people.
struct Name<'a>(&'a UCred);

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} of user {}", self.0.pid().unwrap_or(0), self.0.uid())
    }
}

/// Returns what is to be said of it.
async fn refuse(writer: &mut OwnedWriteHalf, who: &Name<'_>, reason: String) -> String {
    let text = format!("{who} refused: {reason}");
    // It hears why if it listens; refused it is either way.
    let _ = say(writer, &ProxySays::Refused { reason }.to_line().unwrap_or_default()).await;
    text
}

/// A connection that was let in.
struct Talk<'a> {
    registry: &'a Registry,
    door: Option<&'a Door>,
    id: &'a WorkerId,
    link: LinkId,
}

impl Talk<'_> {
    /// Until either side ends.
    async fn converse(
        &self,
        mut reader: BufReader<OwnedReadHalf>,
        mut writer: OwnedWriteHalf,
        inbox: Inbox,
        worker: Option<message::Place>,
    ) -> Result<(), String> {
        let Inbox { mut lines, mut end, pace } = inbox;
        let listen = async {
            while let Some(line) = line(&mut reader, LONGEST_LINE).await.map_err(|e| e.to_string())? {
                pace.keep(line.len()).await;
                self.heard(&line).await?;
            }
            Ok(())
        };
        let speak = async {
            say(&mut writer, &ProxySays::Welcome { worker }.to_line().unwrap_or_default()).await?;
            while let Some(line) = lines.next().await {
                say(&mut writer, &line).await?;
            }
            Ok(())
        };
        tokio::select! {
            ended = listen => ended,
            ended = speak => ended,
            // Superseded, or the worker is gone.
            _ = end.changed() => Ok(()),
        }
    }

    async fn heard(&self, line: &[u8]) -> Result<(), String> {
        let Talk { registry, id, link, .. } = *self;
        let said = serde_json::from_slice(line).map_err(|e| format!("a line is not understood: {e}"))?;
        let report = match said {
            WorkerSays::Path { path, port, main, why } => {
                return registry.path(id, link, (&self.here(path)?, port), main.then_some(why)).await;
            }
            WorkerSays::Port { port, at, state } => {
                registry.port(id, link, port, PortState::parse(&state, at, port)).await;
                return Ok(());
            }
            WorkerSays::Closed { path } => {
                registry.closed(id, link, &self.here(path)?).await;
                return Ok(());
            }
            WorkerSays::Stats(stats) => {
                registry.stats(id, link, stats).await;
                return Ok(());
            }
            WorkerSays::Engine { paths, sessions } => return registry.engine(id, link, paths, sessions).await,
            WorkerSays::Ready => Report::Ready,
            WorkerSays::Message { data } => Report::Message(data),
            WorkerSays::Hello(_) | WorkerSays::Join(_) | WorkerSays::Unknown => return Ok(()),
        };
        registry.report(id, Some(report)).await;
        Ok(())
    }

    fn here(&self, path: String) -> Result<String, String> {
        self.door.map_or(Ok(path.clone()), |door| door.here(&path))
    }
}

async fn say(writer: &mut OwnedWriteHalf, line: &[u8]) -> Result<(), String> {
    match timeout(WRITE_LIMIT, writer.write_all(line)).await {
        Ok(Ok(())) => Ok(()),
        // It has gone, which its reader sees too.
        Ok(Err(_)) => Ok(()),
        Err(_) => Err(format!("reads nothing for {WRITE_LIMIT:?}")),
    }
}

/// The next line without its end, of at most `limit` bytes; `None` at the end of the stream.
async fn line(reader: &mut BufReader<OwnedReadHalf>, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let chunk = match reader.fill_buf().await {
            // A worker that was killed leaves a reset behind; that is an end, too.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            other => other?,
        };
        if chunk.is_empty() {
            return Ok(None);
        }
        let end = memchr::memchr(b'\n', chunk);
        let taken = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        if line.len() + taken.len() > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a line has more than {limit} bytes")));
        }
        line.extend_from_slice(taken);
        let used = taken.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}
