//! Takes what another process gives away: connections between two requests, and open tunnels.

use super::format::{self, Contents};
use crate::gateway::ProxyService;
use crate::gateway::downstream::connection::{Connection, client_of};
use crate::gateway::downstream::connections::ConnectionGuard;
use crate::gateway::tunnel::log::TunnelLog;
use crate::gateway::tunnel::relay::{Ends, Relay};
use crate::pool::{Lease, Member, Room};
use crate::worker::{Incarnation, Slot, Tag, WorkerId};
use bytes::BytesMut;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// A connection of another process that stands still. Dropping it says nothing to anybody, as with a paused tunnel.
pub(crate) struct Adopted {
    what: What,
    home: Handle,
}

enum What {
    Connection(ProxyService, Box<Connection>, Duration),
    Tunnel(Box<Relay>),
}

impl Adopted {
    pub(crate) fn activate(self) {
        match self.what {
            What::Connection(service, connection, idle) => {
                drop(self.home.spawn(async move { service.serve(*connection, idle).await }));
            }
            What::Tunnel(relay) => drop(self.home.spawn(relay.run())),
        }
    }
}

impl ProxyService {
    /// Gets a connection or a tunnel of another process ready to go on, also beyond the limit of connections. Call it
    /// within the runtime that is to serve it, once the pools hold the workers. `known` tells of those that no pool
    /// holds. A tunnel whose worker nobody knows goes on, too, but no drain will ask it to close.
    ///
    /// # Errors
    /// What is wrong with the transfer, in a sentence. Its descriptors are closed then.
    pub(crate) fn adopt(
        &self,
        bytes: &[u8],
        fds: Vec<OwnedFd>,
        known: impl Fn(&WorkerId) -> Option<Arc<Member>>,
    ) -> Result<Adopted, String> {
        let home = Handle::try_current().map_err(|_| "a transfer can only be taken within a runtime")?;
        let (contents, behind) = Contents::unpack(bytes)?;
        let what = match contents {
            Contents::Connection(said) => {
                let [client] = take(fds, "a connection")?;
                let stream = format::client(client, said.peer)?;
                let client = client_of(&stream);
                let is_proxy = |ip: &IpAddr| self.rules().load().clients.forwarding.trusted.contains(*ip);
                let guard = self.counted(client.ip.filter(|ip| !is_proxy(ip)));
                let mut connection = Connection::new(client, stream, guard);
                connection.read_ahead = BytesMut::from(behind);
                connection.may_be_http2 = said.greeting;
                connection.head_wait_left = said.left_ms.map(Duration::from_millis);
                let service = self.at_address(said.listener);
                connection.tls = Some(service.client_tls(&connection.stream));
                What::Connection(service, Box::new(connection), Duration::from_millis(said.idle_ms))
            }
            Contents::Tunnel(said) => {
                let [client, worker] = take(fds, "a tunnel")?;
                let (waiting, tls) = format::split_tls(&said, behind)?;
                let client = match tls {
                    Some(state) => format::tls_client(client, said.peer, state)?,
                    None => format::client(client, said.peer)?,
                };
                What::Tunnel(self.resume(&said, waiting, (client, format::worker(worker)?), known)?)
            }
        };
        Ok(Adopted { what, home })
    }

    /// Counts what is adopted in, also for its client's address, beyond every limit.
    fn counted(&self, client: Option<IpAddr>) -> ConnectionGuard {
        let mut guard = self.registry().register_adopted();
        guard.hold(client.and_then(|ip| self.registry().clients().take_anyway(ip)));
        guard
    }

    fn resume(
        &self,
        said: &format::Tunnel,
        waiting: &[u8],
        ends: (pingora_core::protocols::Stream, tokio::net::UnixStream),
        known: impl Fn(&WorkerId) -> Option<Arc<Member>>,
    ) -> Result<Box<Relay>, String> {
        let id = WorkerId {
            app: said.app.as_str().into(),
            slot: Slot(said.slot),
            incarnation: Incarnation(said.incarnation),
        };
        let tag = match &said.tag {
            Some(tag) => Some(Tag::parse(tag).ok_or_else(|| format!("{tag:?} is no worker's tag"))?),
            None => None,
        };
        let rules = self.rules().load();
        let app = rules.apps.iter().find(|app| app.pool.app == id.app);
        let member = app.and_then(|app| app.pool.member(&id)).or_else(|| known(&id));
        let member = member.unwrap_or_else(|| Arc::new(Member::new(id, tag, said.socket.as_str().into())));
        let metrics = app.map(|app| app.metrics.clone()).unwrap_or_default();
        let guard = self.counted(said.client);
        let lease = Lease::resumed(member).of_room(said.room.map(|room| Room::from_hash(room).led_now()));
        let _tunnel = metrics.moved_tunnel();
        let log = said.log.clone().map(|entry| TunnelLog::new(Box::new(entry), self.rules().clone()));
        Relay::resume(said, waiting, ends, Ends { guard, lease, log, _tunnel })
    }
}

/// As many descriptors as are wanted.
fn take<const N: usize>(fds: Vec<OwnedFd>, what: &str) -> Result<[OwnedFd; N], String> {
    let wrong = |fds: Vec<OwnedFd>| format!("{what} has {N} descriptors, not {}", fds.len());
    fds.try_into().map_err(wrong)
}
