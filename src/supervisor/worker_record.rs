//! One worker, beside what the fleet knows of it.

use super::child::ChildHandle;
use super::status::Ports;
use crate::fleet;
use crate::pool::Member;
use crate::process::Group;
use crate::process::control::{Stats, Token};
use crate::process::output::{LastWords, Rest, Stream};
use crate::process::tree::Tree;
use crate::process::usage::Usage;
use crate::worker::{Tag, WorkerId};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub(super) struct WorkerRecord {
    pub(super) id: WorkerId,
    pub(super) tag: Option<Tag>,
    /// Where its main server is told to listen.
    pub(super) socket: PathBuf,
    pub(super) child: Option<ChildHandle>,
    /// As traffic knows it; older ones while they carry something. The last is the present one.
    pub(super) members: Vec<Arc<Member>>,
    pub(super) stats: Option<Stats>,
    /// Where its Engine.IO serves, once it has said so.
    pub(super) engine: Option<Vec<String>>,
    /// Of Engine.IO, as it said last.
    pub(super) sessions: Option<u64>,
    /// The process that serves, which may be a descendant of the one that was started.
    pub(super) serving_pid: Option<u32>,
    /// Of all its processes.
    pub(super) usage: Option<Usage>,
    tree: Tree,
    /// Port of its main server, and what became of its others.
    pub(super) ports: Ports,
    /// Processors used in the last second.
    pub(super) cpu: Option<f64>,
    /// The last lines of its output.
    pub(super) tail: LastWords,
    /// Requests of members that are forgotten.
    pub(super) served: u64,
    /// The tasks that read its output.
    pub(super) readers: Vec<OutputReader>,
    /// Says true when its process is gone.
    pub(super) exited: Option<watch::Receiver<bool>>,
    /// What it proves itself with when it dials in, and the user it runs as.
    pub(super) token: Option<Token>,
    pub(super) uid: u32,
    /// Whether somebody else started it.
    pub(super) is_external: bool,
    /// What lives of its process group although its process ended while no proxy watched.
    pub(super) orphans: Option<Group>,
    /// Whether its process group was searched for sockets that listen, as it did not say.
    pub(super) searched: bool,
}

/// A task that reads one stream of a worker.
pub(super) struct OutputReader {
    pub(super) stream: Stream,
    /// Ends with what is left to read if it was paused. The sender is dropped when nobody reads any more.
    pub(super) task: JoinHandle<(Option<Rest>, mpsc::Sender<()>)>,
}

impl WorkerRecord {
    pub(super) fn new(id: WorkerId, socket: PathBuf) -> WorkerRecord {
        WorkerRecord {
            id,
            tag: None,
            socket,
            child: None,
            members: Vec::new(),
            stats: None,
            engine: None,
            sessions: None,
            serving_pid: None,
            usage: None,
            tree: Tree::default(),
            ports: Ports::default(),
            cpu: None,
            tail: LastWords::default(),
            served: 0,
            readers: Vec::new(),
            exited: None,
            token: None,
            uid: rustix::process::geteuid().as_raw(),
            is_external: false,
            orphans: None,
            searched: false,
        }
    }

    /// Its main server listens here now.
    pub(super) fn moved(&mut self, socket: Arc<str>) {
        let gone = |member: &Arc<Member>| load(member) == 0 && member.tunnels.open() == 0;
        let (gone, kept): (Vec<_>, Vec<_>) = self.members.drain(..).partition(gone);
        self.served += gone.iter().map(|member| member.load.total.load(Ordering::Relaxed)).sum::<u64>();
        self.members = kept;
        self.members.push(self.member_at(socket));
        self.publish_engine();
    }

    /// Tells traffic about its Engine.IO: where it serves, and how many sessions it has.
    pub(super) fn publish_engine(&self) {
        for member in &self.members {
            if let Some(paths) = &self.engine {
                member.engine.set_paths(paths.clone());
            }
            if let Some(sessions) = self.sessions {
                member.engine.set_sessions(sessions);
            }
        }
    }

    pub(super) fn member_at(&self, socket: Arc<str>) -> Arc<Member> {
        Arc::new(Member::new(self.id.clone(), self.tag, socket).of_user(self.uid))
    }

    pub(super) fn member(&self) -> Option<&Arc<Member>> {
        self.members.last()
    }

    /// Requests since its start.
    pub(super) fn requests(&self) -> u64 {
        self.served + self.members.iter().map(|member| member.load.total.load(Ordering::Relaxed)).sum::<u64>()
    }

    /// What traffic has with it now.
    pub(super) fn carried(&self) -> fleet::Carried {
        let sum = |count: fn(&Member) -> u32| self.members.iter().map(|member| count(member)).sum();
        fleet::Carried {
            active: sum(|member| member.load.active.load(Ordering::Relaxed)),
            parked: sum(|member| member.load.parked.load(Ordering::Relaxed)),
            tunnels: sum(|member| u32::try_from(member.tunnels.open()).unwrap_or(u32::MAX)),
        }
    }

    /// Looks at what it uses; `passed` since the last look.
    pub(super) fn measure(&mut self, passed: Duration) -> fleet::Load {
        let used = self.tree.look(self.child.as_ref().map(|child| child.pid()).into_iter().chain(self.serving_pid));
        let seconds = passed.as_secs_f64().max(0.001);
        self.cpu = used.and_then(|used| used.lately).map(|lately| lately.as_secs_f64() / seconds);
        let usage = used.map(|used| used.all);
        self.usage = usage;
        fleet::Load {
            elu: self.stats.map(|stats| stats.elu),
            cpu: self.cpu,
            rss: usage.map(|usage| usage.rss).or(self.stats.map(|stats| stats.rss)),
            carried: self.carried(),
            sessions: self.stats.map_or(0, |stats| stats.sessions),
            requests: self.requests(),
        }
    }
}

fn load(member: &Member) -> u32 {
    member.load.active.load(Ordering::Relaxed) + member.load.parked.load(Ordering::Relaxed)
}
