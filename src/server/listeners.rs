//! Where clients, Prometheus and commands come in.

use super::accept_gate::{AcceptGate, GatedService};
use super::runtimes::Homes;
use super::sockets::{Purpose, Sockets};
use crate::config::{self, Config};
use crate::gateway::{Listener, ProxyService, SharedListener};
use crate::tls::rules::TlsRules;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// For one question and its answer, in all: whoever is slower must not keep a connection.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions that are asked at once, of one address. One more, and the oldest of them is closed: a flood does not keep a probe
/// from its answer.
const MOST_QUESTIONS: usize = 1024;

/// The sockets and the gates before them.
#[derive(Clone)]
pub(super) struct Listeners {
    pub(super) sockets: Arc<Sockets>,
    /// Before the clients' listeners.
    pub(super) traffic: AcceptGate,
    /// Before commands and whatever watches the proxy: open as long as it runs.
    pub(super) own: AcceptGate,
}

impl Listeners {
    /// Those of an heir open when everything is its own.
    pub(super) fn new(open: bool) -> Listeners {
        Listeners { sockets: Arc::default(), traffic: AcceptGate::new(open), own: AcceptGate::new(open) }
    }

    /// Listens on every address of the configuration, which then has the real ones.
    ///
    /// # Errors
    /// The first that cannot be listened on, and why.
    pub(super) fn bind(&self, config: &mut Config) -> Result<(), String> {
        let mut addresses: Vec<(Purpose, &mut SocketAddr)> = Vec::new();
        addresses.extend(config.listeners.iter_mut().map(|listener| (Purpose::Listeners, &mut listener.address)));
        addresses.extend(config.metrics.iter_mut().map(|address| (Purpose::Metrics, address)));
        addresses.extend(config.health.iter_mut().map(|address| (Purpose::Health, address)));
        // What is written goes first: a free port may not take what another key names.
        addresses.sort_by_key(|(_, address)| address.port() == 0);
        for (purpose, address) in addresses {
            *address = self.sockets.tcp(purpose, *address)?;
        }
        // The directory of this one is furnished later.
        let later = config.admin.as_deref().and_then(|path| path.to_str());
        self.sockets.close_unclaimed(later.as_slice());
        Ok(())
    }

    /// The service of the clients' listeners.
    pub(super) fn traffic(
        &self,
        listeners: &[SharedListener],
        front: &ProxyService,
        homes: &Homes,
    ) -> GatedService<ProxyService> {
        let served = |listener: &SharedListener| {
            let address = listener.load().address.to_string();
            let scheme = if listener.load().tls.is_some() { "https" } else { "http" };
            log::info!("listening on {scheme}://{address}");
            (address, Arc::new(front.at(listener.clone())))
        };
        // The front buffers what it needs: buffers of its stream would cost every idle connection 10 KiB and more.
        let apps = listeners.iter().map(served).collect();
        let service = self.traffic.service_of("front", apps, &self.sockets).served_at(homes.clone());
        service.admitted_by(|front, peer| front.admit(peer))
    }

    /// A small service of our own on one address, with one answer for each connection.
    pub(super) fn tcp<A>(&self, name: &str, app: A, address: SocketAddr) -> GatedService<ShortLived<A>>
    where
        A: ServerApp + Send + Sync + 'static,
    {
        let app = ShortLived::new(app, QUESTION_TIMEOUT, MOST_QUESTIONS);
        self.own.service(name, app, vec![address.to_string()], &self.sockets).threads(1)
    }
}

/// What connections of a configuration's listeners meet, in their order. `rules` are those of the listeners with TLS.
pub(super) fn in_force(config: &Config, rules: &[Arc<TlsRules>]) -> Vec<Listener> {
    let https = config.listeners.iter().find(|listener| listener.tls.is_some());
    let port = https.map_or(443, |listener| listener.address.port());
    let mut rules = rules.iter();
    let one = |listener: &config::Listener| Listener {
        address: listener.address,
        tls: listener.tls.as_ref().and_then(|_| Some(Arc::new(ArcSwap::new(rules.next()?.clone())))),
        h2c: listener.h2c,
        redirect: listener.redirect.then_some(port),
        proxy_protocol: listener.proxy_protocol.clone(),
    };
    config.listeners.iter().map(one).collect()
}

/// An application whose connections are short, and not too many: nobody who can reach its address takes the file descriptors
/// from clients. Pingora limits each read alone, so a head that drips would stay open for ever.
pub(super) struct ShortLived<A> {
    app: Arc<A>,
    limit: Duration,
    most: usize,
    /// The oldest first; dropped, the connection is closed.
    open: Mutex<VecDeque<oneshot::Sender<()>>>,
}

impl<A> ShortLived<A> {
    fn new(app: A, limit: Duration, most: usize) -> ShortLived<A> {
        ShortLived { app: Arc::new(app), limit, most, open: Mutex::default() }
    }

    /// Ends when it is this connection's turn to make room.
    fn admit(&self) -> oneshot::Receiver<()> {
        let (sender, closed) = oneshot::channel();
        let mut open = self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while open.len() >= self.most || open.front().is_some_and(oneshot::Sender::is_closed) {
            open.pop_front();
        }
        open.push_back(sender);
        closed
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServerApp for ShortLived<A> {
    async fn process_new(self: &Arc<Self>, session: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let closed = self.admit();
        tokio::select! {
            answered = timeout(self.limit, self.app.process_new(session, shutdown)) => answered.ok().flatten(),
            _ = closed => None,
        }
    }

    async fn cleanup(&self) {
        self.app.cleanup().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio::sync::watch;

    /// Waits for its client.
    struct Patient;

    #[async_trait]
    impl ServerApp for Patient {
        async fn process_new(self: &Arc<Self>, mut stream: Stream, _shutdown: &ShutdownWatch) -> Option<Stream> {
            let _ = stream.read(&mut [0]).await;
            Some(stream)
        }
    }

    fn ask(app: &Arc<ShortLived<Patient>>) -> DuplexStream {
        let (client, server) = duplex(64);
        let app = app.clone();
        tokio::spawn(async move { app.process_new(Box::new(server), &watch::channel(false).1).await });
        client
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_loses_its_connection_and_the_oldest_makes_room() {
        let app = Arc::new(ShortLived::new(Patient, QUESTION_TIMEOUT, 2));
        let began = tokio::time::Instant::now();
        let mut asked = Vec::new();
        for _ in 0..3 {
            asked.push(ask(&app));
            tokio::task::yield_now().await;
        }
        assert_eq!(asked[0].read(&mut [0]).await.unwrap(), 0, "one too many");
        assert!(began.elapsed() < QUESTION_TIMEOUT);
        assert_eq!(asked[2].read(&mut [0]).await.unwrap(), 0, "it said nothing");
        assert!(began.elapsed() >= QUESTION_TIMEOUT);
        assert!(app.open.lock().unwrap().len() <= 2);
    }
}
