//! Apps, commands and handoffs without a process: each test takes some milliseconds.

use super::fake::{Call, Machine};
use super::*;
use crate::process::{Exit, RuntimeDir};

/// A supervisor of one app, `chat`, on a fake machine.
pub(super) struct Fast {
    base: PathBuf,
    pub(super) machine: Machine,
    pub(super) control: Control,
    pub(super) pool: Arc<Pool>,
    task: tokio::task::JoinHandle<()>,
}

pub(super) fn chat(instances: u16, argument: &str, pool: &Arc<Pool>) -> AppSpec {
    let policy = Policy {
        instances,
        min_ready: Duration::ZERO,
        drain_window: Duration::ZERO,
        backoff_min: Duration::from_millis(1),
        ..policy()
    };
    AppSpec { name: "chat".into(), spec: spec(&["worker", argument], false), policy, pool: pool.clone() }
}

fn setup(base: &std::path::Path, app: AppSpec) -> Setup {
    Setup {
        apps: vec![app],
        runtime_dir: base.join("run"),
        port: 8000,
        keep_alive: Duration::from_secs(75),
        orphan_timeout: Duration::from_secs(30),
        logs: Default::default(),
        alarms: Default::default(),
        guarded: None,
        output: Some(Box::new(io::sink())),
    }
}

impl Fast {
    pub(super) fn start(instances: u16) -> Fast {
        let (base, machine, pool) = (base_dir(), Machine::default(), new_pool());
        let setup = setup(&base, chat(instances, "one", &pool));
        let (supervisor, control) = machine.host(|host| Supervisor::on(host, setup)).unwrap();
        Fast::run(base, machine, control, pool, supervisor)
    }

    fn run(base: PathBuf, machine: Machine, control: Control, pool: Arc<Pool>, supervisor: Supervisor) -> Fast {
        let task = tokio::spawn(async move {
            let (_shutdown, shutdown_in) = watch::channel(false);
            supervisor.start(shutdown_in).await;
        });
        Fast { base, machine, control, pool, task }
    }

    /// The successor of this one, passive.
    async fn successor(&self) -> (Fast, TakeoverHandle) {
        let text = serde_json::to_vec(&self.control.pause().await.unwrap()).unwrap();
        let dir = RuntimeDir::inherit(&self.base.join("run"), self.control.lock().unwrap()).unwrap();
        let (machine, pool) = (self.machine.clone(), new_pool());
        let (setup, snapshot) = (setup(&self.base, chat(2, "one", &pool)), Snapshot::parse(&text).unwrap());
        let made = machine.host(|host| Supervisor::successor_on(host, setup, dir, snapshot));
        let (supervisor, control, handle) = made.unwrap();
        (Fast::run(self.base.clone(), machine, control, pool, supervisor), handle)
    }

    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Arc<Status> {
        until(&self.control, what, wanted, String::new).await
    }

    /// The ids of the ready workers.
    pub(super) async fn ready(&self, workers: usize) -> Vec<u32> {
        let all = |s: &Status| s.apps[0].ready() == workers && s.apps[0].workers.len() == workers;
        let status = self.until("ready", |s| s.epoch.is_some() && all(s)).await;
        status.apps[0].workers.iter().filter_map(|worker| worker.pid).collect()
    }

    pub(super) async fn end(self) {
        self.control.stop();
        self.end_stopped().await;
    }

    async fn end_stopped(self) {
        timeout(Duration::from_secs(10), self.control.finished()).await.expect("never finished").unwrap();
        self.task.await.unwrap();
        std::fs::remove_dir(&self.base).unwrap();
    }
}

#[tokio::test]
async fn a_worker_that_exits_is_replaced_and_a_stop_asks_before_it_signals() {
    let fast = Fast::start(2);
    let pids = fast.ready(2).await;
    fast.machine.child(pids[0]).exit(Exit::Signal { number: 9, core: false });
    let another = |s: &Status| s.apps[0].ready() == 2 && s.apps[0].workers.iter().all(|w| w.pid != Some(pids[0]));
    let status = fast.until("another", another).await;
    assert!(status.apps[0].workers.iter().any(|worker| worker.pid == Some(pids[1])), "its sibling stays");
    let slots = &status.apps[0].slots;
    assert!(slots.iter().any(|slot| slot.restarts == 1 && slot.last_exit.as_deref() == Some("killed by SIGKILL")));
    let machine = fast.machine.clone();
    fast.end().await;
    assert_eq!(machine.child(pids[1]).calls(), [Call::AskToEnd, Call::Signal(15)]);
    assert_eq!(machine.children().len(), 3);
}

#[tokio::test]
async fn commands_are_answered_when_their_outcome_is_known() {
    let fast = Fast::start(2);
    let old = fast.ready(2).await;
    assert_eq!(fast.control.scale("chat", ScaleTo::By(1)).await.unwrap(), "chat: 3 workers are ready");
    assert_eq!(
        fast.control
            .reload(vec![chat(2, "one", &fast.pool)], ReloadScope::Configured, None, Box::new(|| ()))
            .await
            .unwrap(),
        "chat: unchanged"
    );
    let outcome = fast
        .control
        .reload(vec![chat(2, "two", &fast.pool)], ReloadScope::Changed, None, Box::new(|| ()))
        .await
        .unwrap();
    assert!(outcome.starts_with("chat: generation 2 runs: 3 workers replaced"), "{outcome}");
    assert!(fast.ready(3).await.iter().all(|pid| !old.contains(pid)));
    assert_eq!(fast.control.restart(Some("news".into()), None).await.unwrap_err(), "there is no app news");
    let control = fast.control.clone();
    fast.control.stop();
    assert_eq!(control.restart(None, None).await.unwrap_err(), "the proxy is stopping");
    fast.end_stopped().await;
}

#[tokio::test]
async fn what_happens_during_a_pause_is_told_after_it() {
    let fast = Fast::start(2);
    let pids = fast.ready(2).await;
    fast.control.pause().await.unwrap();
    let before = fast.control.status();
    fast.machine.child(pids[0]).exit(Exit::Code(1));
    let control = fast.control.clone();
    let restart = tokio::spawn(async move { control.restart(None, None).await });
    // A request goes through the paused loop, and nothing was decided before it was answered.
    assert_eq!(fast.control.pause_output().await, []);
    assert_eq!((fast.control.status(), fast.machine.children().len()), (before, 2));
    fast.control.resume().await;
    assert!(restart.await.unwrap().is_ok());
    assert!(fast.ready(2).await.iter().all(|pid| !pids.contains(pid)));
    fast.end().await;
}

#[tokio::test]
async fn released_children_are_touched_by_the_successor_only() {
    let old = Fast::start(2);
    let pids = old.ready(2).await;
    let (new, handle) = old.successor().await;
    handle.bound.await.unwrap();
    old.control.disconnect_workers().await;
    handle.commit.send(old.control.pause_output().await).unwrap();
    let control = old.control.clone();
    let command = tokio::spawn(async move { control.restart(None, None).await });
    old.control.release().await;
    assert_eq!(old.control.finished().await, Ok(()));
    assert!(command.await.unwrap().is_err());
    assert_eq!(new.ready(2).await, pids);
    assert!(pids.iter().all(|pid| old.machine.child(*pid).calls() == [Call::Release]));
    // The successor hears of an exit.
    new.machine.child(pids[0]).exit(Exit::Code(3));
    new.until("another", |s| s.apps[0].ready() == 2 && !s.apps[0].workers.iter().any(|w| w.pid == Some(pids[0]))).await;
    drop(old);
    new.end().await;
}

/// What a proxy of version 1 has written: this program reads it, and writes what that one reads.
#[tokio::test]
async fn a_snapshot_of_an_earlier_version_is_read_and_written_alike() {
    let base = base_dir();
    let dir = base.to_string_lossy();
    let now = serde_json::to_string(&crate::process::state::monotonic()).unwrap();
    let text = include_str!("snapshot-v1.json").replace("\"EPOCH\"", &now).replace("RUNTIME_DIR", &dir);
    let text = text.replace("BOOT", &crate::process::state::boot_id());
    let snapshot = Snapshot::parse(text.as_bytes()).unwrap();
    let earlier: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_has(&serde_json::to_value(&snapshot).unwrap(), &earlier, "");
    let adopt = |pid, _, _| {
        Err(crate::process::Error::Io { doing: format!("adopting {pid}"), source: io::ErrorKind::NotFound.into() })
    };
    let restored = snapshot.restore(&base, &adopt, |_| new_pool()).unwrap();
    assert_eq!((&*restored.apps[0].name, restored.apps[0].workers.len()), ("chat", 2));
    std::fs::remove_dir(&base).unwrap();
}

/// Whatever stands in `earlier` stands in `later`, too, which may have more.
fn assert_has(later: &serde_json::Value, earlier: &serde_json::Value, at: &str) {
    use serde_json::Value;
    match (later, earlier) {
        (Value::Object(later), Value::Object(earlier)) => {
            for (key, value) in earlier {
                assert_has(later.get(key).unwrap_or(&Value::Null), value, &format!("{at}.{key}"));
            }
        }
        (Value::Array(later), Value::Array(earlier)) if later.len() == earlier.len() => {
            for (n, (later, earlier)) in later.iter().zip(earlier).enumerate() {
                assert_has(later, earlier, &format!("{at}[{n}]"));
            }
        }
        _ => assert_eq!(later, earlier, "{at}"),
    }
}
