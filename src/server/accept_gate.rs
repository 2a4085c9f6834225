//! Decides when services accept connections. Pingora's own listening service accepts from its start to the
//! end of the process, and hands connections to whatever thread it meets; behind a gate a service accepts while the gate
//! is open, as often as need be, and what has been accepted goes on when the gate closes.

use super::accept::{self, Accepted};
use super::runtimes::Homes;
use super::sockets::Sockets;
use async_trait::async_trait;
use pingora_core::apps::ServerApp;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::{ServiceReadyNotifier, ServiceWithDependents};
use std::any::Any;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Before a service that failed is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How long a closing gate lets in those who have connected already.
const LAST_CALL_TIMEOUT: Duration = Duration::from_millis(200);
const PENDING_CHECK_INTERVAL: Duration = Duration::from_millis(1);
const EMPTY_CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// How often services start again for connections that came while they ended.
const LAST_ROUNDS: usize = 3;

/// A set of services that accept together.
#[derive(Clone, Debug)]
pub(crate) struct AcceptGate {
    open: Arc<watch::Sender<bool>>,
    /// How many services accept now.
    accepting: Arc<watch::Sender<usize>>,
    /// Connections that came through it and have not ended.
    open_connections: Arc<AtomicUsize>,
}

impl AcceptGate {
    pub(crate) fn new(open: bool) -> AcceptGate {
        AcceptGate {
            open: Arc::new(watch::Sender::new(open)),
            accepting: Arc::default(),
            open_connections: Arc::default(),
        }
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// Returns at once; [`AcceptGate::closed`] waits until it is so.
    pub(crate) fn close(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// Waits until every connection that came through it has ended.
    pub(crate) async fn emptied(&self) {
        while self.open_connections.load(Ordering::Acquire) > 0 {
            sleep(EMPTY_CHECK_INTERVAL).await;
        }
    }

    /// Waits until no service behind it accepts.
    pub(crate) async fn closed(&self) {
        // It cannot fail: we hold the sender.
        let _ = self.accepting.subscribe().wait_for(|accepting| *accepting == 0).await;
    }

    /// Waits until so many services accept.
    #[cfg(test)]
    pub(crate) async fn accepting(&self, services: usize) {
        let _ = self.accepting.subscribe().wait_for(|accepting| *accepting >= services).await;
    }

    /// Puts a service behind this gate, which accepts on these addresses of `sockets`.
    pub(crate) fn service<A>(
        &self,
        name: &str,
        app: A,
        addresses: Vec<String>,
        sockets: &Arc<Sockets>,
    ) -> GatedService<A> {
        let app = Arc::new(app);
        self.service_of(name, addresses.into_iter().map(|address| (address, app.clone())).collect(), sockets)
    }

    /// The same with an application for each address. The first one's cleanup is that of all.
    pub(crate) fn service_of<A>(
        &self,
        name: &str,
        apps: Vec<(String, Arc<A>)>,
        sockets: &Arc<Sockets>,
    ) -> GatedService<A> {
        GatedService {
            name: name.to_owned(),
            threads: None,
            addresses: apps.iter().map(|(address, _)| address.clone()).collect(),
            apps,
            sockets: sockets.clone(),
            gate: self.clone(),
            homes: Homes::Here,
            admission: None,
            aside: None,
        }
    }
}

/// Counts one service that accepts.
struct Accepting(Arc<watch::Sender<usize>>);

impl Accepting {
    fn new(gate: &AcceptGate) -> Accepting {
        gate.accepting.send_modify(|accepting| *accepting += 1);
        Accepting(gate.accepting.clone())
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.send_modify(|accepting| *accepting -= 1);
    }
}

/// One connection that is being served.
struct Served(Arc<AtomicUsize>);

impl Served {
    fn new(gate: &AcceptGate) -> Served {
        gate.open_connections.fetch_add(1, Ordering::Relaxed);
        Served(gate.open_connections.clone())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// A listening service behind a gate.
pub(super) struct GatedService<A> {
    name: String,
    threads: Option<usize>,
    apps: Vec<(String, Arc<A>)>,
    addresses: Vec<String>,
    sockets: Arc<Sockets>,
    gate: AcceptGate,
    homes: Homes,
    admission: Option<Admission<A>>,
    aside: Option<Aside>,
}

/// Gives a place to a connection that was just accepted for this application from this address, or none.
type Admission<A> = Arc<dyn Fn(&A, Option<IpAddr>) -> Option<Place> + Send + Sync>;

/// The place of a connection until it is served. Dropping it gives it back.
type Place = Box<dyn Any + Send>;

/// What runs beside a service, in its runtime.
type Aside = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// One time of accepting. Dropping it ends that.
struct Run {
    /// Ends with the first that fails.
    tasks: JoinSet<io::Result<()>>,
    stop: watch::Sender<bool>,
    homes: Homes,
}

impl Run {
    async fn end(&mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        // What was accepted counts where it is served, and not before.
        let _ = tokio::time::timeout(LAST_CALL_TIMEOUT, self.homes.begun()).await;
    }

    /// Waits for what should not happen, and says what.
    async fn failure(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error.to_string(),
            Some(Err(error)) => error.to_string(),
            Some(Ok(Ok(()))) | None => "it ended".to_owned(),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl<A: ServerApp + Send + Sync + 'static> GatedService<A> {
    /// On so many threads of Pingora's, as with [`Homes::Here`] its connections are served there.
    pub(super) fn threads(mut self, threads: usize) -> GatedService<A> {
        self.threads = Some(threads);
        self
    }

    /// Its connections are served there; it only accepts them.
    pub(super) fn served_at(mut self, homes: Homes) -> GatedService<A> {
        if let Homes::Own(_) = homes {
            self.threads = Some(1);
        }
        self.homes = homes;
        self
    }

    /// Asks for a place for each connection as soon as it is accepted: what waits for its thread counts, too. One that gets
    /// none is closed at once. The place is given back as the service takes the connection, which takes its own.
    pub(super) fn admitted_by(
        mut self,
        admission: impl Fn(&A, Option<IpAddr>) -> Option<Place> + Send + Sync + 'static,
    ) -> GatedService<A> {
        self.admission = Some(Arc::new(admission));
        self
    }

    /// Runs beside the service from its start on, whether the gate is open or not.
    pub(super) fn beside(mut self, aside: impl Future<Output = ()> + Send + Sync + 'static) -> GatedService<A> {
        self.aside = Some(Box::pin(aside));
        self
    }

    fn run(&self, listeners_per_fd: usize) -> Result<Run, String> {
        // One task is enough where it does nothing else.
        let tasks_each = if let Homes::Here = self.homes { listeners_per_fd } else { 1 };
        // Connections keep their end of this for as long as they live.
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (address, app) in self.apps.iter().flat_map(|served| std::iter::repeat_n(served, tasks_each)) {
            let socket = self.sockets.lend(address)?;
            let accepting = accept::accept(address.clone(), socket, stopped.clone(), self.place(app, stopped.clone()));
            tasks.spawn_on(accepting, &self.homes.acceptor());
        }
        Ok(Run { tasks, stop, homes: self.homes.clone() })
    }

    /// Begins connections.
    fn place(&self, app: &Arc<A>, stop: ShutdownWatch) -> impl FnMut(Accepted) + Send + 'static {
        let (app, gate, homes) = (app.clone(), self.gate.clone(), self.homes.clone());
        let admission = self.admission.clone();
        move |accepted| {
            let place = admission.as_ref().map(|admit| admit(&app, accepted.peer()));
            if let Some(None) = place {
                return;
            }
            let (app, stop, served) = (app.clone(), stop.clone(), Served::new(&gate));
            let client = accepted.peer();
            let job = async move {
                let _served = served;
                let mut next = match accepted.into_stream() {
                    Ok(stream) => Some(stream),
                    Err(error) => return log::warn!("a connection is lost: {error}"),
                };
                drop(place);
                while let Some(stream) = next {
                    next = app.process_new(stream, &stop).await;
                }
            };
            homes.place(client, Box::pin(job));
        }
    }

    /// Ends a run. Whoever has connected before is still let in.
    async fn end(&self, mut run: Run, listeners_per_fd: usize) {
        for _ in 0..LAST_ROUNDS {
            let settled = async {
                while self.sockets.pending(&self.addresses) {
                    sleep(PENDING_CHECK_INTERVAL).await;
                }
            };
            let _ = tokio::time::timeout(LAST_CALL_TIMEOUT, settled).await;
            run.end().await;
            if !self.sockets.pending(&self.addresses) {
                return;
            }
            match self.run(listeners_per_fd) {
                Ok(again) => run = again,
                Err(_) => return,
            }
        }
        run.end().await;
    }

    /// Until the server ends.
    async fn serve(&self, listeners_per_fd: usize, ready: ServiceReadyNotifier) {
        let mut ready = Some(ready);
        let mut open = self.gate.open.subscribe();
        let mut renewals = self.sockets.renewals();
        let has_path = self.addresses.iter().any(|address| address.starts_with('/'));
        loop {
            until(&mut open, true).await;
            renewals.mark_unchanged();
            let mut run = match self.run(listeners_per_fd) {
                Ok(run) => run,
                Err(why) => {
                    log::error!("{} cannot accept connections: {why}", self.name);
                    sleep(RESTART_DELAY).await;
                    continue;
                }
            };
            let _accepting = Accepting::new(&self.gate);
            if let Some(ready) = ready.take() {
                ready.notify_ready();
            }
            tokio::select! {
                () = until(&mut open, false) => self.end(run, listeners_per_fd).await,
                // The socket that it accepts on is reached by nobody any more.
                Ok(()) = renewals.changed(), if has_path => {}
                why = run.failure() => {
                    log::error!("{} stopped accepting connections and starts again: {why}", self.name);
                    sleep(RESTART_DELAY).await;
                }
            }
        }
    }

    /// Where connections are served must be there before anything is adopted.
    async fn start_homes(&self) {
        while let Err(why) = self.homes.start() {
            log::error!("{} has nowhere to serve connections: {why}", self.name);
            sleep(RESTART_DELAY).await;
        }
    }
}

/// Waits for a value; for ever, when nobody is left to change it.
async fn until(watch: &mut watch::Receiver<bool>, wanted: bool) {
    let gone = watch.wait_for(|value| *value == wanted).await.is_err();
    if gone {
        std::future::pending().await
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServiceWithDependents for GatedService<A> {
    /// Pingora's table stays empty: the sockets are ours.
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        mut shutdown: ShutdownWatch,
        listeners_per_fd: usize,
        ready: ServiceReadyNotifier,
    ) {
        let aside = self.aside.take();
        let serve = async {
            self.start_homes().await;
            aside.map(tokio::spawn);
            self.serve(listeners_per_fd, ready).await;
        };
        tokio::select! {
            () = serve => {}
            () = until(&mut shutdown, true) => {}
        }
        if let Some((_, app)) = self.apps.first() {
            app.cleanup().await;
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn threads(&self) -> Option<usize> {
        self.threads
    }
}

#[cfg(test)]
mod tests {
    use super::super::sockets::Purpose;
    use super::*;
    use pingora_core::protocols::Stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// Sends back one byte at a time.
    struct Echo {
        ended: Arc<AtomicUsize>,
    }

    #[async_trait]
    impl ServerApp for Echo {
        async fn process_new(self: &Arc<Self>, mut stream: Stream, _shutdown: &ShutdownWatch) -> Option<Stream> {
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() {
                stream.write_all(&byte).await.ok()?;
                stream.flush().await.ok()?;
            }
            None
        }

        async fn cleanup(&self) {
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn echoes(client: &mut TcpStream) {
        let mut byte = [0];
        client.write_all(b"x").await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"x");
    }

    #[tokio::test]
    async fn it_opens_and_closes_as_often_as_asked() {
        let (sockets, gate, ended) = (Arc::new(Sockets::default()), AcceptGate::new(false), Arc::default());
        let address = sockets.tcp(Purpose::Listeners, "127.0.0.1:0".parse().unwrap()).unwrap();
        let addresses = sockets.addresses(Purpose::Listeners);
        let mut service = gate.service("echo", Echo { ended: Arc::clone(&ended) }, addresses, &sockets);
        let (shutdown, shut) = watch::channel(false);
        let (ready_in, ready) = watch::channel(false);
        let notifier = ServiceReadyNotifier::new(ready_in);
        let running = tokio::spawn(async move { service.start_service(None, shut, 1, notifier).await });

        // Clients that come before wait.
        let mut first = TcpStream::connect(address).await.unwrap();
        assert!(!*ready.borrow());
        gate.open();
        gate.accepting(1).await;
        echoes(&mut first).await;
        assert!(*ready.borrow());
        for _ in 0..3 {
            let mut late = TcpStream::connect(address).await.unwrap();
            gate.close();
            gate.closed().await;
            // Both were let in, and a new one waits as long as the socket is ours.
            echoes(&mut late).await;
            echoes(&mut first).await;
            let mut waiting = TcpStream::connect(address).await.unwrap();
            assert!(sockets.pending(&sockets.addresses(Purpose::Listeners)));
            gate.open();
            echoes(&mut waiting).await;
        }
        assert_eq!(ended.load(Ordering::Relaxed), 0);
        gate.close();
        gate.closed().await;
        sockets.close(Purpose::Listeners);
        assert!(TcpStream::connect(address).await.is_err());
        echoes(&mut first).await;
        shutdown.send_replace(true);
        running.await.unwrap();
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    }
}
