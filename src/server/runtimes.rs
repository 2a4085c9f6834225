//! Where clients are served: single-threaded runtimes, each on a thread of its own.
//!
//! Such a runtime runs its tasks in the order in which they were woken, and wakes them in the order in which their
//! sockets became readable. A runtime of several threads runs the last woken task first, and its threads take tasks from
//! each other: two requests of one moment change places, and under a flood who came first waits longest.
//!
//! A connection stays where it was placed. Those of one client are placed together, as long as no thread has notably more
//! than another: a client that asks two things at once on two connections means them in that order, and two threads would
//! race. Otherwise the thread with the fewest has it.
//!
//! What is placed waits in the thread's inbox until the thread takes it, so that a thread that is held up can be passed
//! over, and what waits for it served elsewhere.

mod lane;
mod placement;

use lane::Lane;
pub(super) use lane::{Job, Promise, Settings};
use placement::Load;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::sleep;

/// Between two looks at the inboxes, while something waits in them.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// Where connections are served.
#[derive(Clone)]
pub(super) enum Homes {
    /// Where they are accepted.
    Here,
    Own(Arc<Runtimes>),
}

impl Homes {
    /// Call it where connections are accepted.
    ///
    /// # Errors
    /// A thread or its epoll cannot be made.
    pub(super) fn start(&self) -> io::Result<()> {
        match self {
            Homes::Here => Ok(()),
            Homes::Own(runtimes) => runtimes.start(),
        }
    }

    /// Where connections are accepted: apart, so that no busy thread keeps clients from the others. Where there is only one
    /// thread nobody is kept from anything, and handing over would cost a change of threads for each connection.
    pub(super) fn acceptor(&self) -> Handle {
        match self {
            Homes::Own(runtimes) if runtimes.lanes().len() == 1 => runtimes.lanes()[0].handle.clone(),
            _ => Handle::current(),
        }
    }

    /// Begins a connection of a client.
    pub(super) fn place(&self, client: Option<IpAddr>, job: Job) {
        match self {
            Homes::Here => drop(tokio::spawn(job)),
            Homes::Own(runtimes) => runtimes.place(client, job),
        }
    }

    /// Parts for all threads, as [`Homes::place`] would choose; each part is to be begun in its home.
    pub(super) fn deal<T>(&self, things: Vec<T>, client: impl Fn(&T) -> Option<IpAddr>) -> Vec<Part<T>> {
        match self {
            Homes::Here => vec![Part { home: Handle::current(), things, promise: None }],
            Homes::Own(runtimes) => runtimes.deal(things, client),
        }
    }

    /// Ends when every connection that was placed has begun.
    pub(super) async fn begun(&self) {
        if let Homes::Own(runtimes) = self {
            while runtimes.lanes().iter().any(|lane| lane.inbox.len() > 0) {
                sleep(CHECK_INTERVAL).await;
            }
        }
    }

    /// Ends the threads and whatever is served there. One that does not hear is left alone after `limit`.
    pub(super) fn end(&self, limit: Duration) {
        if let Homes::Own(runtimes) = self {
            runtimes.end(limit);
        }
    }
}

/// Some of what was dealt out, and where it is to be.
pub(super) struct Part<T> {
    pub(super) home: Handle,
    pub(super) things: Vec<T>,
    promise: Option<Promise>,
}

impl<T> Part<T> {
    /// Its things, and what counts them as this thread's until they are tasks of it.
    pub(super) fn open(self) -> (Handle, Vec<T>, Option<Promise>) {
        (self.home, self.things, self.promise)
    }
}

/// The threads. They start with [`Homes::start`], since a daemon forks before.
pub(super) struct Runtimes {
    settings: Settings,
    lanes: OnceLock<Box<[Lane]>>,
    /// Whose turn it is among equals.
    turn: AtomicUsize,
    /// Clients' preferences, which nobody outside can know.
    clients: RandomState,
    placed: Notify,
    began: Instant,
}

impl Runtimes {
    pub(super) fn new(settings: Settings) -> Arc<Runtimes> {
        Arc::new(Runtimes {
            settings,
            lanes: OnceLock::new(),
            turn: AtomicUsize::new(0),
            clients: RandomState::new(),
            placed: Notify::new(),
            began: Instant::now(),
        })
    }

    fn start(self: &Arc<Self>) -> io::Result<()> {
        if self.lanes.get().is_some() {
            return Ok(());
        }
        let lanes = (0..self.settings.threads.max(1)).map(|at| Lane::start(at, &self.settings));
        let lanes: Box<[Lane]> = lanes.collect::<io::Result<_>>()?;
        // Another service may have been faster: its threads stay.
        if self.lanes.set(lanes).is_ok() {
            let runtimes = self.clone();
            tokio::spawn(async move { runtimes.watch().await });
        }
        Ok(())
    }

    fn lanes(&self) -> &[Lane] {
        self.lanes.get().map_or(&[], |lanes| lanes)
    }

    /// Never 0.
    fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64 + 1
    }

    fn loads(&self) -> Vec<Load> {
        let now = self.now();
        self.lanes().iter().map(|lane| lane.load(now)).collect()
    }

    fn choose(&self, loads: &[Load], client: Option<IpAddr>) -> usize {
        let preferred = client.map(|client| (self.clients.hash_one(client) % loads.len().max(1) as u64) as usize);
        placement::choose(loads, preferred, self.turn.fetch_add(1, Ordering::Relaxed))
    }

    fn place(&self, client: Option<IpAddr>, job: Job) {
        if let [only] = self.lanes()
            && Handle::current().id() == only.handle.id()
        {
            tokio::spawn(job);
            return;
        }
        let at = self.choose(&self.loads(), client);
        if let Some(lane) = self.lanes().get(at) {
            lane.inbox.push([job], self.now());
            self.placed.notify_one();
        }
    }

    fn deal<T>(&self, things: Vec<T>, client: impl Fn(&T) -> Option<IpAddr>) -> Vec<Part<T>> {
        let mut loads = self.loads();
        let mut parts: Vec<Vec<T>> = loads.iter().map(|_| Vec::new()).collect();
        for thing in things {
            let at = self.choose(&loads, client(&thing));
            if let (Some(load), Some(part)) = (loads.get_mut(at), parts.get_mut(at)) {
                load.open += 1;
                part.push(thing);
            }
        }
        let part = |(lane, things): (&Lane, Vec<T>)| {
            let promise = Promise::new(lane, things.len());
            Part { home: lane.handle.clone(), things, promise: Some(promise) }
        };
        let parts = self.lanes().iter().zip(parts);
        parts.filter(|(_, things)| !things.is_empty()).map(part).collect()
    }

    /// Looks after the inboxes, as long as something waits in one.
    async fn watch(&self) {
        loop {
            self.placed.notified().await;
            while self.lanes().iter().any(Lane::is_asked) {
                sleep(CHECK_INTERVAL).await;
                self.relieve();
            }
        }
    }

    /// What waits for threads that are held up goes to others.
    fn relieve(&self) {
        let mut loads = self.loads();
        if loads.iter().all(|load| load.is_late) {
            return;
        }
        for (from, lane) in self.lanes().iter().enumerate() {
            if !loads[from].is_late {
                continue;
            }
            // Under the inbox's lock nothing is pushed: a job may be best left where it is.
            let mut moved = Vec::new();
            let mut jobs = lane.inbox.jobs();
            for job in std::mem::take(&mut *jobs) {
                let at = self.choose(&loads, None);
                if at == from {
                    jobs.push_back(job);
                    continue;
                }
                loads[from].open = loads[from].open.saturating_sub(1);
                loads[at].open += 1;
                moved.push((at, job));
            }
            drop(jobs);
            for (at, job) in moved {
                self.lanes()[at].inbox.push([job], self.now());
            }
        }
    }

    fn end(&self, limit: Duration) {
        let threads: Vec<_> = self.lanes().iter().filter_map(Lane::stop).collect();
        let end = Instant::now() + limit;
        for thread in threads {
            while !thread.is_finished() && Instant::now() < end {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Shows how connections are spread.
#[derive(Debug)]
struct Spread(Homes);

impl fmt::Debug for Homes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if let Homes::Here = self { "Here" } else { "Own" })
    }
}

impl Collector for Spread {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let help = "What each thread that serves clients has: connections, and requests of HTTP/2.";
        let mut metric = encoder.encode_descriptor("thread_tasks", help, None, MetricType::Gauge)?;
        let Homes::Own(runtimes) = &self.0 else { return Ok(()) };
        for (at, load) in runtimes.loads().iter().enumerate() {
            let labels = [("thread", at.to_string())];
            ConstGauge::new(load.open as i64).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Adds that to a registry.
pub(super) fn register(registry: &mut Registry, homes: &Homes) {
    registry.register_collector(Box::new(Spread(homes.clone())));
}

#[cfg(test)]
mod tests;
