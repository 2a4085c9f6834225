mod deploys;
mod engine;
mod external;
mod fake;
mod fast;
mod killed;
mod reload;
mod takeover;

use super::alarms;
use super::alarms::Alarms;
use super::handle::{Control, Supervisor};
use super::handoff::TakeoverHandle;
use super::messages::{Outcome, ReloadScope, ScaleTo};
use super::setup::{AppSpec, Setup};
use super::snapshot::{PartialLine, Snapshot};
use super::status::{Status, WorkerStatus};
use crate::fleet::State;
use crate::fleet::policy::Policy;
use crate::pool::Pool;
use crate::pool::affinity::{Affinity, Balance};
use crate::pool::{Use, Wanted};
use crate::process::spec::Spec;
use async_trait::async_trait;
use pingora_core::services::background::BackgroundService;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// What the workers wrote.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// A supervisor at work, in a directory of its own.
struct Stage {
    base: PathBuf,
    control: Control,
    pools: Vec<Arc<Pool>>,
    output: Written,
    shutdown: watch::Sender<bool>,
    faults: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

/// Waits until the status is as wanted; `output` is shown where it never is.
async fn until(
    control: &Control,
    what: &str,
    wanted: impl Fn(&Status) -> bool,
    output: impl FnOnce() -> String,
) -> Arc<Status> {
    let mut changes = control.clone();
    let wait = async {
        let mut status = control.status();
        while !wanted(&status) {
            status = changes.changed().await;
        }
        status
    };
    let waited = timeout(Duration::from_secs(30), wait).await;
    waited.unwrap_or_else(|_| panic!("never {what}: {:#?}\n{}", control.status(), output()))
}

fn base_dir() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("pup-sv-{}-{n}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    dir
}

fn node(script: &str) -> Spec {
    spec(&["node", "-e", script], true)
}

fn spec(command: &[&str], preload: bool) -> Spec {
    Spec { preload, ..Spec::of(command, "/") }
}

fn policy() -> Policy {
    Policy {
        start_timeout: Duration::from_secs(20),
        stop_timeout: Duration::from_secs(5),
        drain_timeout: Duration::from_secs(5),
        ..Policy::default()
    }
}

fn new_pool() -> Arc<Pool> {
    Arc::new(Pool::new("app".into(), Affinity::SocketIo, Balance::LeastLoaded, crate::pool::QueuePolicy::default()))
}

impl Stage {
    fn start(apps: Vec<(Spec, Policy)>) -> Stage {
        let base = base_dir();
        let output = Written::default();
        let pools: Vec<_> = apps.iter().map(|_| new_pool()).collect();
        let app = |(n, (spec, policy)): (usize, (Spec, Policy))| AppSpec {
            name: format!("app{n}").into(),
            spec,
            policy,
            pool: pools[n].clone(),
        };
        let setup = Setup {
            apps: apps.into_iter().enumerate().map(app).collect(),
            runtime_dir: base.join("deep/run"),
            port: 8000,
            keep_alive: Duration::from_secs(75),
            orphan_timeout: Duration::from_secs(30),
            logs: Default::default(),
            alarms: Default::default(),
            guarded: None,
            output: Some(Box::new(output.clone())),
        };
        let (supervisor, control) = Supervisor::new(setup).unwrap();
        let faults = supervisor.faults();
        let (shutdown, shutdown_in) = watch::channel(false);
        let task = tokio::spawn(async move { supervisor.start(shutdown_in).await });
        Stage { base, control, pools, output, shutdown, faults, task }
    }

    /// Waits until the status is as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Arc<Status> {
        until(&self.control, what, wanted, || self.output.text()).await
    }

    async fn ready(&self, workers: usize) -> Arc<Status> {
        self.until("ready", |status| status.apps.iter().all(|app| app.ready() == workers)).await
    }

    /// Stops, and sees that nothing is left.
    async fn end(self) -> String {
        self.control.stop();
        self.finished().await
    }

    async fn finished(self) -> String {
        let outcome = timeout(Duration::from_secs(30), self.control.finished()).await.expect("never finished");
        self.left_nothing(outcome).await
    }

    async fn left_nothing(self, outcome: Outcome) -> String {
        outcome.unwrap();
        self.task.await.unwrap();
        let mark = self.base.to_string_lossy().into_owned();
        assert_eq!(processes_with(&mark), Vec::<String>::new(), "processes are left");
        assert!(std::fs::read_dir(&self.base).unwrap().next().is_none(), "something is left in {:?}", self.base);
        std::fs::remove_dir(&self.base).unwrap();
        assert!(self.pools.iter().all(|pool| pool.select(Wanted::Any, Use::Request, &[]).is_none()));
        self.output.text()
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        self.control.status().apps[0].workers.clone()
    }
}

/// Living processes that were started with this text in their environment.
fn processes_with(mark: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let marked = |path: &PathBuf| {
        let env = std::fs::read(path.join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&env).contains(mark)
    };
    entries.filter(marked).map(|path| path.display().to_string()).collect()
}

fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

async fn get(socket: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

const HELLO: &str =
    "require('http').createServer((q, s) => s.end('slot ' + process.env.NODE_APP_INSTANCE)).listen(3000);";

#[tokio::test]
async fn node_workers_become_ready_serve_and_leave_nothing() {
    let three = || (node(HELLO), Policy { instances: 3, ..policy() });
    let stage = Stage::start(vec![three(), three()]);
    let status = stage.ready(3).await;
    let mut tags = std::collections::HashSet::new();
    let mut leases = Vec::new();
    for pool in stage.pools.iter().flat_map(|pool| [pool; 3]) {
        let lease = pool.select(Wanted::Any, Use::Request, &[]).unwrap();
        tags.insert(lease.member().tag.unwrap());
        leases.push(lease);
    }
    assert_eq!(tags.len(), 6, "every living worker has its own tag");
    for worker in status.apps.iter().flat_map(|app| &app.workers) {
        let answer = get(worker.socket.as_ref().unwrap()).await;
        assert!(answer.ends_with(&format!("slot {}", worker.slot)), "{answer}");
    }
    drop(leases);
    stage.end().await;
}

#[tokio::test]
async fn a_killed_worker_comes_back_and_its_siblings_notice_nothing() {
    let stage = Stage::start(vec![(node(HELLO), Policy { instances: 2, ..policy() })]);
    stage.ready(2).await;
    let before = stage.workers();
    kill(before[0].pid.unwrap(), rustix::process::Signal::KILL);
    stage.until("gone", |status| status.apps[0].ready() == 1).await;
    let lease = stage.pools[0].select(Wanted::Any, Use::Request, &[]).unwrap();
    assert_eq!(lease.member().id.slot, before[1].slot);
    let status = stage.ready(2).await;
    let slot = &status.apps[0].slots[0];
    assert_eq!((slot.failures, slot.last_exit.as_deref()), (1, Some("killed by SIGKILL")));
    assert!(stage.workers().iter().any(|worker| worker.pid == before[1].pid));
    drop(lease);
    stage.end().await;
}

#[tokio::test]
async fn a_worker_that_fails_at_boot_backs_off_and_its_last_words_are_kept() {
    let script = "console.error('no database\\rhere'); console.log('bye'); process.exitCode = 3";
    let stage = Stage::start(vec![(node(script), policy())]);
    let status = stage.until("failed twice", |status| status.apps[0].slots.iter().any(|s| s.failures == 2)).await;
    let slot = &status.apps[0].slots[0];
    assert_eq!(slot.last_exit.as_deref(), Some("exited with code 3"));
    assert_eq!(*slot.last_words, ["no database^Mhere"]);
    let text = stage.end().await;
    let pid: u32 = text.lines().next().unwrap().split(' ').nth(2).unwrap().parse().unwrap();
    for line in [format!(" app0[0] {pid} g1 err | no database^Mhere"), format!(" app0[0] {pid} g1 out | bye")] {
        assert!(text.lines().any(|l| l.ends_with(&line)), "{text}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said_so() {
    let stage = Stage::start(vec![(spec(&["/no/such/program"], false), policy())]);
    let status = stage.until("failed", |status| status.apps[0].slots.iter().any(|s| s.failures == 1)).await;
    let why = status.apps[0].slots[0].last_exit.as_deref().unwrap();
    assert_eq!(why, "could not be started: program \"/no/such/program\" not found; looked for /no/such/program");
    stage.end().await;
}

#[tokio::test]
async fn an_app_that_says_when_is_waited_for() {
    let script = format!("{HELLO} process.on('SIGUSR2', () => process.send('ready'));");
    let stage = Stage::start(vec![(node(&script), Policy { wait_ready: true, ..policy() })]);
    let status = stage
        .until("waited for", |status| {
            status.apps[0].workers.iter().any(|w| w.reason == "the app has not said process.send('ready') yet")
        })
        .await;
    assert!(stage.pools[0].select(Wanted::Any, Use::Request, &[]).is_none());
    kill(status.apps[0].workers[0].pid.unwrap(), rustix::process::Signal::USR2);
    stage.ready(1).await;
    stage.end().await;
}

#[tokio::test]
async fn a_worker_that_never_listens_is_killed_and_says_why() {
    let quick = Policy { start_timeout: Duration::from_secs(2), ..policy() };
    let stage = Stage::start(vec![(node("setInterval(() => {}, 1000)"), quick)]);
    let status = stage.until("failed", |status| status.apps[0].slots.iter().any(|s| s.failures == 1)).await;
    let why = status.apps[0].slots[0].last_exit.as_deref().unwrap();
    assert_eq!(why, "not ready within 2s: no server of it listens yet (killed by SIGKILL)");
    stage.end().await;
}

#[tokio::test]
async fn a_worker_without_the_preload_binds_its_socket_itself() {
    let script = "setTimeout(() => require('http').createServer((q, s) => s.end(process.env.NODE_OPTIONS ?? 'none')).listen(process.argv[1]), 200)";
    let stage = Stage::start(vec![(spec(&["node", "-e", script, "{socket}"], false), policy())]);
    let status = stage.ready(1).await;
    assert!(get(status.apps[0].workers[0].socket.as_ref().unwrap()).await.ends_with("none"));
    let lease = stage.pools[0].select(Wanted::Any, Use::Request, &[]).unwrap();
    assert_eq!(lease.member().tag, None);
    drop(lease);
    stage.end().await;
}

#[tokio::test]
async fn a_stop_waits_for_requests_but_not_for_parked_ones() {
    let stage = Stage::start(vec![(node(HELLO), Policy { drain_timeout: Duration::from_secs(25), ..policy() })]);
    stage.ready(1).await;
    let request = stage.pools[0].select(Wanted::Any, Use::Request, &[]).unwrap();
    let parked = stage.pools[0].select(Wanted::Any, Use::Parked, &[]).unwrap();
    stage.control.stop();
    stage.until("draining", |status| status.apps[0].workers[0].state == State::Draining).await;
    assert!(stage.pools[0].select(Wanted::NewSession, Use::Request, &[]).is_none());
    // Several looks later it is still there.
    assert!(timeout(Duration::from_millis(400), stage.control.finished()).await.is_err());
    let began = std::time::Instant::now();
    drop(request);
    stage.finished().await;
    assert!(began.elapsed() < Duration::from_secs(20));
    drop(parked);
}

#[tokio::test]
async fn the_app_hears_of_its_end_before_the_signal() {
    let script = format!(
        "{HELLO} setInterval(() => {{}}, 1000); process.on('message', (m) => console.log('heard', m)); process.on('SIGTERM', () => {{ console.log('signal'); process.exit(0) }});"
    );
    let stage = Stage::start(vec![(node(&script), policy())]);
    stage.ready(1).await;
    let text = stage.end().await;
    let said: Vec<&str> = text.lines().filter_map(|line| line.split(" | ").nth(1)).collect();
    assert_eq!(said, ["heard shutdown", "signal"]);
}

#[tokio::test]
async fn a_worker_behind_a_wrapper_may_finish() {
    let script = format!(
        "{HELLO} setInterval(() => {{}}, 1000); process.on('SIGTERM', () => setTimeout(() => {{ console.log('finished'); process.exit(0) }}, 300));"
    );
    // The shell ends at the signal, its child does not.
    let stage = Stage::start(vec![(spec(&["sh", "-c", "node -e \"$0\" & wait", &script], true), policy())]);
    stage.ready(1).await;
    assert!(stage.end().await.contains("out | finished\n"));
}

/// Stops the server when the supervisor has finished, as the composition root does.
struct Finished(Control);

#[async_trait]
impl pingora_core::server::ShutdownSignalWatch for Finished {
    async fn recv(&self) -> pingora_core::server::ShutdownSignal {
        let _ = self.0.finished().await;
        pingora_core::server::ShutdownSignal::FastShutdown
    }
}

#[tokio::test]
async fn it_runs_as_a_service_of_pingora() {
    use pingora_core::server::{RunArgs, Server};
    let base = base_dir();
    let pool = new_pool();
    let (supervisor, control) = Supervisor::new(Setup {
        apps: vec![AppSpec { name: "chat".into(), spec: node(HELLO), policy: policy(), pool: pool.clone() }],
        runtime_dir: base.join("run"),
        port: 8000,
        keep_alive: Duration::from_secs(75),
        orphan_timeout: Duration::from_secs(30),
        logs: Default::default(),
        alarms: Default::default(),
        guarded: None,
        output: Some(Box::new(io::sink())),
    })
    .unwrap();
    let watch = Finished(control.clone());
    let server = std::thread::spawn(move || {
        let mut server = Server::new(None).unwrap();
        server.bootstrap();
        server.add_service(pingora_core::services::background::background_service("supervisor", supervisor));
        server.run(RunArgs { shutdown_signal: Box::new(watch) });
    });
    let mut changes = control.clone();
    let ready = async {
        while changes.status().apps[0].ready() < 1 {
            changes.changed().await;
        }
    };
    timeout(Duration::from_secs(30), ready).await.unwrap();
    assert!(pool.select(Wanted::Any, Use::Request, &[]).is_some());
    control.stop();
    timeout(Duration::from_secs(30), control.finished()).await.unwrap().unwrap();
    tokio::task::spawn_blocking(|| server.join().unwrap()).await.unwrap();
    // Nothing but the empty directory, or this fails.
    std::fs::remove_dir(&base).unwrap();
}

#[tokio::test]
async fn a_worker_that_will_not_end_is_killed_with_its_children() {
    let script =
        format!("{HELLO} process.on('SIGTERM', () => {{}}); require('child_process').spawn('sleep', ['300']);");
    let stubborn = Policy { stop_timeout: Duration::from_millis(300), ..policy() };
    let stage = Stage::start(vec![(node(&script), stubborn)]);
    stage.ready(1).await;
    let mark = stage.base.to_string_lossy().into_owned();
    assert_eq!(processes_with(&mark).len(), 2);
    stage.end().await;
}

#[tokio::test]
async fn a_second_stop_kills_at_once() {
    let script = format!("{HELLO} process.on('SIGTERM', () => {{}});");
    let patient = Policy { stop_timeout: Duration::from_secs(600), drain_timeout: Duration::ZERO, ..policy() };
    let stage = Stage::start(vec![(node(&script), patient)]);
    stage.ready(1).await;
    stage.control.stop();
    stage.until("stopping", |status| status.apps[0].workers[0].state == State::Stopping).await;
    stage.end().await;
}

#[tokio::test]
async fn a_stop_during_the_start_ends_too() {
    let stage = Stage::start(vec![(node(HELLO), Policy { instances: 4, ..policy() })]);
    stage.until("begun", |status| !status.apps[0].workers.is_empty()).await;
    stage.end().await;
}

#[tokio::test]
async fn the_server_s_own_shutdown_counts_as_a_stop() {
    let stage = Stage::start(vec![(node(HELLO), policy())]);
    stage.ready(1).await;
    stage.shutdown.send_replace(true);
    stage.finished().await;
}

#[tokio::test]
async fn a_panic_is_survived_and_many_are_not() {
    let stage = Stage::start(vec![(node(HELLO), policy())]);
    let pid = stage.ready(1).await.apps[0].workers[0].pid.unwrap();
    stage.faults.store(2, Ordering::Relaxed);
    kill(pid, rustix::process::Signal::KILL);
    stage.until("back", |s| s.apps[0].workers.iter().any(|w| w.state == State::Ready && w.pid != Some(pid))).await;
    assert_eq!(stage.faults.load(Ordering::Relaxed), 0);

    stage.faults.store(1000, Ordering::Relaxed);
    stage.control.stop();
    let outcome = timeout(Duration::from_secs(30), stage.control.finished()).await.unwrap();
    assert!(outcome.as_ref().unwrap_err().contains("panicked 5 times within 60s: as planned"), "{outcome:?}");
    stage.task.await.unwrap();
    let mark = stage.base.to_string_lossy().into_owned();
    let gone = async {
        while !processes_with(&mark).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.unwrap();
    std::fs::remove_dir_all(&stage.base).unwrap();
}

#[tokio::test]
async fn workers_of_another_user_bind_dial_in_and_leave_nothing() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let identity =
        crate::process::spec::Identity { uid: 65534, gid: 65534, name: "nobody".into(), home: "/nonexistent".into() };
    let script = "require('http').createServer((q, s) => s.end('uid ' + process.getuid())).listen(3000);";
    let stage = Stage::start(vec![(Spec { user: Some(identity), ..node(script) }, policy())]);
    let status = stage.ready(1).await;
    assert!(get(status.apps[0].workers[0].socket.as_ref().unwrap()).await.ends_with("uid 65534"));
    stage.end().await;
}

#[tokio::test]
async fn a_flood_of_output_holds_nobody_up() {
    let script = format!(
        "{HELLO} const line = 'x'.repeat(1000) + '\\n'; for (let i = 0; i < 30000; i++) process.stdout.write(line); console.error('done');"
    );
    let stage = Stage::start(vec![(node(&script), policy())]);
    stage.ready(1).await;
    let text = stage.end().await;
    assert!(text.contains("err | done"), "a stream loses nothing to another");
}
