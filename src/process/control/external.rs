//! The door through which workers come that somebody else started (docs/protocol.md).
//!
//! Each app has its own, in the directory that it shares with its workers. Who is let in is decided by
//! the user it runs as; what place it gets, by the supervisor, who is asked for each connection.

use super::links::LinkId;
use super::message::{Hello, Joining, PROTOCOL, Place};
use super::registry::{Inbox, Registry, Token};
use crate::process::shared_dir::SharedDir;
use crate::worker::{Tag, WorkerId};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// For the supervisor to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// A worker that wants in.
pub(crate) struct Join {
    pub(crate) app: Arc<str>,
    /// By which it is known again.
    pub(crate) token: Token,
    /// What the sids that it gave out so far end with.
    pub(crate) tag: Option<Tag>,
    /// Where its main server listens, or will.
    pub(crate) socket: PathBuf,
    pub(crate) uid: u32,
    /// As the kernel tells it; `None` from another PID namespace.
    pub(crate) pid: Option<u32>,
    pub(crate) reply: oneshot::Sender<Result<(WorkerId, Place), Turned>>,
}

/// Why a worker gets no place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Turned {
    /// It is told so.
    Away(String),
    /// There may be one in a moment: it is hung up on, and redials.
    Later(&'static str),
}

impl From<String> for Turned {
    fn from(why: String) -> Turned {
        Turned::Away(why)
    }
}

impl From<&str> for Turned {
    fn from(why: &str) -> Turned {
        Turned::Away(why.to_owned())
    }
}

/// Where the workers of one app come in.
#[derive(Debug)]
pub(crate) struct Door {
    app: Arc<str>,
    directory: PathBuf,
    users: Mutex<Vec<u32>>,
    joins: mpsc::Sender<Join>,
}

impl Door {
    pub(crate) fn new(app: Arc<str>, directory: PathBuf, users: Vec<u32>, joins: mpsc::Sender<Join>) -> Door {
        Door { app, directory, users: Mutex::new(users), joins }
    }

    /// Whose processes may come in from now on; who is in stays.
    pub(crate) fn admit_users(&self, users: Vec<u32>) {
        *self.users.lock().unwrap_or_else(|e| e.into_inner()) = users;
    }

    pub(super) fn knows_user(&self, uid: u32) -> bool {
        self.users.lock().unwrap_or_else(|e| e.into_inner()).contains(&uid)
    }

    /// The path by which we know what the worker may know by another.
    pub(super) fn here(&self, path: &str) -> Result<String, String> {
        let here = SharedDir::socket(&self.directory, path).and_then(|path| path.into_os_string().into_string().ok());
        here.ok_or_else(|| format!("{path:?} is not one of its sockets"))
    }

    /// Finds the place of a worker, or a new one, and opens its connection.
    pub(super) async fn admit(
        &self,
        registry: &Registry,
        link: LinkId,
        asks: Joining,
        (uid, pid): (u32, Option<u32>),
    ) -> Result<(WorkerId, Inbox, Place), Turned> {
        if asks.protocol != PROTOCOL {
            return Err(format!("protocol {} is not spoken here, {PROTOCOL} is", asks.protocol).into());
        }
        let token = Token::parse(&asks.id).ok_or("its id is not 32 hexadecimal digits")?;
        let socket = SharedDir::socket(&self.directory, &asks.socket);
        let socket = socket.ok_or_else(|| format!("{:?} is no name of a worker's socket", asks.socket))?;
        let (reply, answer) = oneshot::channel();
        let tag = asks.tag.as_deref().and_then(Tag::parse);
        let join = Join { app: self.app.clone(), token, tag, socket, uid, pid, reply };
        let asked = async {
            self.joins.send(join).await.map_err(|_| Turned::Later("the proxy ends"))?;
            answer.await.map_err(|_| Turned::Later("the proxy ends"))?
        };
        let answered = tokio::time::timeout(ANSWER, asked).await;
        let (id, place) = answered.map_err(|_| Turned::Later("the proxy is busy"))??;
        let hello = Hello {
            protocol: asks.protocol,
            app: id.app.to_string(),
            slot: id.slot.0,
            incarnation: id.incarnation.0,
            token: asks.id,
            pid: asks.pid,
            thread: asks.thread,
            node: asks.node,
            settled: asks.settled,
        };
        let (id, inbox) = registry.open(link, &hello, (uid, pid)).await?;
        Ok((id, inbox, place))
    }
}
