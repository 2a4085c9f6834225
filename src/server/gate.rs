//! Decides when services accept connections. Pingora's own listening service accepts from its start to the
//! end of the process; behind a gate it accepts while the gate is open, as often as need be, and what has been
//! accepted goes on when the gate closes.

use super::sockets::Sockets;
use async_trait::async_trait;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::Stream;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::listening::Service;
use pingora_core::services::{self, ServiceReadyNotifier, ServiceWithDependents};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Before a service that failed is started again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a closing gate lets in those who have connected already.
const LAST_CALL: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(1);
const EMPTY_LOOK: Duration = Duration::from_millis(10);
/// How often services start again for connections that came while they ended.
const LAST_LOOKS: usize = 3;

/// A set of services that accept together.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    open: Arc<watch::Sender<bool>>,
    /// How many services accept now.
    accepting: Arc<watch::Sender<usize>>,
    /// Connections that came through it and have not ended.
    open_connections: Arc<AtomicUsize>,
}

impl Gate {
    pub(crate) fn new(open: bool) -> Gate {
        Gate { open: Arc::new(watch::Sender::new(open)), accepting: Arc::default(), open_connections: Arc::default() }
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// Returns at once; [`Gate::closed`] waits until it is so.
    pub(crate) fn close(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// Waits until every connection that came through it has ended.
    pub(crate) async fn emptied(&self) {
        while self.open_connections.load(Ordering::Acquire) > 0 {
            sleep(EMPTY_LOOK).await;
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

    /// Puts a service behind this gate. `endpoints` adds its listeners, whose `addresses` stand in `sockets`.
    pub(crate) fn service<A>(
        &self,
        name: &str,
        app: A,
        addresses: Vec<String>,
        sockets: &Arc<Sockets>,
        endpoints: impl Fn(&mut Listening<A>) + Send + Sync + 'static,
    ) -> Gated<A> {
        Gated {
            name: name.to_owned(),
            threads: None,
            app: Arc::new(app),
            endpoints: Box::new(endpoints),
            addresses,
            sockets: sockets.clone(),
            gate: self.clone(),
            aside: None,
        }
    }
}

/// Counts one service that accepts.
struct Accepting(Arc<watch::Sender<usize>>);

impl Accepting {
    fn new(gate: &Gate) -> Accepting {
        gate.accepting.send_modify(|accepting| *accepting += 1);
        Accepting(gate.accepting.clone())
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.send_modify(|accepting| *accepting -= 1);
    }
}

/// An application lent to a service: that the service ends does not end the application. Counts its connections.
pub(crate) struct Lent<A>(Arc<A>, Arc<AtomicUsize>);

/// One connection that is being served.
struct Served<'a>(&'a AtomicUsize);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServerApp for Lent<A> {
    async fn process_new(self: &Arc<Self>, session: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let _served = Served(&self.1);
        self.0.process_new(session, shutdown).await
    }
}

/// What Pingora listens with for an application behind a gate.
pub(super) type Listening<A> = Service<Lent<A>>;

/// Adds a service's listeners to it.
type Endpoints<A> = Box<dyn Fn(&mut Listening<A>) + Send + Sync>;

/// A listening service behind a gate.
pub(super) struct Gated<A> {
    name: String,
    threads: Option<usize>,
    app: Arc<A>,
    endpoints: Endpoints<A>,
    addresses: Vec<String>,
    sockets: Arc<Sockets>,
    gate: Gate,
    aside: Option<Aside>,
}

/// What runs beside a service, in its runtime.
type Aside = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// One run of the service of Pingora's inside. Dropping it ends its accepting.
struct Run {
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Run {
    async fn end(&mut self) {
        self.stop.send_replace(true);
        let _ = (&mut self.task).await;
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl<A: ServerApp + Send + Sync + 'static> Gated<A> {
    pub(super) fn threads(mut self, threads: usize) -> Gated<A> {
        self.threads = Some(threads);
        self
    }

    /// Runs beside the service from its start on, whether the gate is open or not.
    pub(super) fn beside(mut self, aside: impl Future<Output = ()> + Send + Sync + 'static) -> Gated<A> {
        self.aside = Some(Box::pin(aside));
        self
    }

    fn run(&self, listeners_per_fd: usize) -> Result<Run, String> {
        let fds = self.sockets.lend(&self.addresses)?;
        let mut service = Service::new(self.name.clone(), Lent(self.app.clone(), self.gate.open_connections.clone()));
        (self.endpoints)(&mut service);
        // Connections keep their end of this for as long as they live.
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            services::Service::start_service(&mut service, Some(fds), stopped, listeners_per_fd).await;
        });
        Ok(Run { task, stop })
    }

    /// Ends a run. Whoever has connected before is still let in.
    async fn end(&self, mut run: Run, listeners_per_fd: usize) {
        for _ in 0..LAST_LOOKS {
            let settled = async {
                while self.sockets.pending(&self.addresses) {
                    sleep(LOOK).await;
                }
            };
            let _ = tokio::time::timeout(LAST_CALL, settled).await;
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
        loop {
            until(&mut open, true).await;
            let mut run = match self.run(listeners_per_fd) {
                Ok(run) => run,
                Err(why) => {
                    log::error!("{} cannot accept connections: {why}", self.name);
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let _accepting = Accepting::new(&self.gate);
            if let Some(ready) = ready.take() {
                ready.notify_ready();
            }
            tokio::select! {
                () = until(&mut open, false) => self.end(run, listeners_per_fd).await,
                outcome = &mut run.task => {
                    let why = outcome.map_or_else(|error| error.to_string(), |()| "it ended".to_owned());
                    log::error!("{} stopped accepting connections and starts again: {why}", self.name);
                    sleep(PAUSE).await;
                }
            }
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
impl<A: ServerApp + Send + Sync + 'static> ServiceWithDependents for Gated<A> {
    /// Pingora's table stays empty: ours is lent to the service inside.
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        mut shutdown: ShutdownWatch,
        listeners_per_fd: usize,
        ready: ServiceReadyNotifier,
    ) {
        self.aside.take().map(tokio::spawn);
        tokio::select! {
            () = self.serve(listeners_per_fd, ready) => {}
            () = until(&mut shutdown, true) => {}
        }
        self.app.cleanup().await;
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
        let (sockets, gate, ended) = (Arc::new(Sockets::default()), Gate::new(false), Arc::default());
        let address = sockets.tcp(Purpose::Listeners, "127.0.0.1:0".parse().unwrap()).unwrap();
        let addresses = sockets.addresses(Purpose::Listeners);
        let endpoints = addresses.clone();
        let mut service =
            gate.service("echo", Echo { ended: Arc::clone(&ended) }, addresses, &sockets, move |service| {
                endpoints.iter().for_each(|address| service.add_tcp(address));
            });
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
