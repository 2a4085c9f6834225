use super::*;
use crate::fleet::State;
use crate::pool::affinity::{Affinity, Balance};
use crate::pool::{Use, Wanted};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
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
    _shutdown: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
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
    let command = command.iter().map(|word| word.to_string()).collect();
    Spec { command, cwd: "/".into(), env: vec![], preload, user: None, umask: None }
}

fn policy() -> Policy {
    Policy {
        start_timeout: Duration::from_secs(20),
        stop_timeout: Duration::from_secs(5),
        drain_timeout: Duration::from_secs(5),
        ..Policy::default()
    }
}

impl Stage {
    fn start(apps: Vec<(Spec, Policy)>) -> Stage {
        let base = base_dir();
        let output = Written::default();
        let pool = || {
            Arc::new(Pool::new(
                "app".into(),
                Affinity::SocketIo,
                Balance::LeastLoaded,
                crate::pool::QueuePolicy::default(),
            ))
        };
        let pools: Vec<_> = apps.iter().map(|_| pool()).collect();
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
            output: Some(Box::new(output.clone())),
        };
        let (supervisor, control) = Supervisor::new(setup).unwrap();
        let (shutdown, shutdown_in) = watch::channel(false);
        let task = tokio::spawn(async move { supervisor.start(shutdown_in).await });
        Stage { base, control, pools, output, _shutdown: shutdown, task }
    }

    /// Waits until the status is as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Arc<Status> {
        let mut control = self.control.clone();
        let wait = async {
            let mut status = control.status();
            while !wanted(&status) {
                status = control.changed().await;
            }
            status
        };
        let waited = timeout(Duration::from_secs(30), wait).await;
        waited.unwrap_or_else(|_| panic!("never {what}: {:#?}\n{}", self.control.status(), self.output.text()))
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
        let pids: Vec<u32> =
            self.control.status().apps.iter().flat_map(|app| app.workers.iter().filter_map(|w| w.pid)).collect();
        timeout(Duration::from_secs(30), self.control.finished()).await.expect("never finished").unwrap();
        self.task.await.unwrap();
        for pid in pids {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
        }
        assert!(std::fs::read_dir(&self.base).unwrap().next().is_none(), "something is left in {:?}", self.base);
        std::fs::remove_dir(&self.base).unwrap();
        assert!(self.pools.iter().all(|pool| pool.select(Wanted::Any, Use::Request, &[]).is_none()));
        self.output.text()
    }
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
    let stage = Stage::start(vec![(node(HELLO), Policy { instances: 3, ..policy() })]);
    let status = stage.ready(3).await;
    let tags: std::collections::HashSet<_> = (0..3)
        .map(|_| {
            let lease = stage.pools[0].select(Wanted::Any, Use::Request, &[]).unwrap();
            let tag = lease.member().tag.unwrap();
            std::mem::forget(lease);
            tag
        })
        .collect();
    assert_eq!(tags.len(), 3);
    for worker in &status.apps[0].workers {
        assert_eq!(worker.state, State::Ready);
        let answer = get(worker.socket.as_ref().unwrap()).await;
        assert!(answer.ends_with(&format!("slot {}", worker.slot)), "{answer}");
    }
    stage.control.kill();
    stage.finished().await;
}
