//! One thread that serves clients.

use super::placement::Load;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Notify, oneshot};

/// A thread that has not looked into its inbox for so long gets nothing new while others have.
const LATE: Duration = Duration::from_millis(50);
/// Connections that a thread begins between two looks at those that it has.
const BATCH: usize = 16;
/// Every so many of its own tasks, a thread looks at what others have woken (Tokio: 31). Its inbox is among that.
const FOREIGN: u32 = 7;

/// What one connection is to do. It is polled on the thread that it was placed on, and not before.
pub(in super::super) type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the runtimes are made of.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Settings {
    pub(in super::super) threads: usize,
    pub(in super::super) max_blocking_threads: Option<usize>,
    pub(in super::super) blocking_thread_ttl: Option<Duration>,
}

/// One thread.
pub(super) struct Lane {
    pub(super) handle: Handle,
    pub(super) inbox: Arc<Inbox>,
    thread: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

#[derive(Default)]
pub(super) struct Inbox {
    jobs: Mutex<VecDeque<Job>>,
    filled: Notify,
    /// Since when it was asked to look into it, in microseconds of the runtimes' time; 0: it has.
    asked: AtomicU64,
    /// What was dealt to it and is no task yet.
    promised: AtomicUsize,
}

impl Inbox {
    pub(super) fn jobs(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn len(&self) -> usize {
        self.jobs().len()
    }

    pub(super) fn push(&self, jobs: impl IntoIterator<Item = Job>, now: u64) {
        self.jobs().extend(jobs);
        let _ = self.asked.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        self.filled.notify_one();
    }

    /// The thread's own task.
    async fn serve(&self) {
        loop {
            self.filled.notified().await;
            loop {
                self.asked.store(0, Ordering::Relaxed);
                let jobs: Vec<Job> = {
                    let mut jobs = self.jobs();
                    let some = jobs.len().min(BATCH);
                    jobs.drain(..some).collect()
                };
                if jobs.is_empty() {
                    break;
                }
                jobs.into_iter().for_each(|job| drop(tokio::spawn(job)));
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Counts what is about to be a thread's.
pub(in super::super) struct Promise(Arc<Inbox>, usize);

impl Promise {
    pub(super) fn new(lane: &Lane, count: usize) -> Promise {
        lane.inbox.promised.fetch_add(count, Ordering::Relaxed);
        Promise(lane.inbox.clone(), count)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.0.promised.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Lane {
    pub(super) fn start(at: usize, settings: &Settings) -> io::Result<Lane> {
        let mut builder = Builder::new_current_thread();
        builder.enable_all().global_queue_interval(FOREIGN).thread_name(format!("front-{at}-blocking"));
        settings.max_blocking_threads.map(|most| builder.max_blocking_threads(most));
        settings.blocking_thread_ttl.map(|ttl| builder.thread_keep_alive(ttl));
        let runtime = builder.build()?;
        let (handle, inbox) = (runtime.handle().clone(), Arc::<Inbox>::default());
        let (stop, stopped) = oneshot::channel();
        let serving = inbox.clone();
        let thread = thread::Builder::new().name(format!("front-{at}"));
        let thread = thread.spawn(move || run(runtime, &serving, stopped))?;
        Ok(Lane { handle, inbox, thread: Mutex::new(Some((stop, thread))) })
    }

    pub(super) fn load(&self, now: u64) -> Load {
        let asked = self.inbox.asked.load(Ordering::Relaxed);
        let is_late = asked != 0 && now.saturating_sub(asked) > LATE.as_micros() as u64;
        let promised = self.inbox.promised.load(Ordering::Relaxed) + self.inbox.len();
        Load { open: self.handle.metrics().num_alive_tasks() + promised, is_late }
    }

    pub(super) fn is_asked(&self) -> bool {
        self.inbox.asked.load(Ordering::Relaxed) != 0
    }

    pub(super) fn stop(&self) -> Option<JoinHandle<()>> {
        let (stop, thread) = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take()?;
        let _ = stop.send(());
        Some(thread)
    }
}

/// One thread's work.
fn run(runtime: Runtime, inbox: &Inbox, stopped: oneshot::Receiver<()>) {
    runtime.block_on(async {
        tokio::select! {
            () = inbox.serve() => {}
            // An error: nobody is left who could place anything.
            _ = stopped => {}
        }
    });
    // What it does outside of its thread nobody waits for.
    runtime.shutdown_background();
}
