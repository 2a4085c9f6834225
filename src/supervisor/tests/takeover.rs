//! Two proxies, one after the other, and the workers of both.

use super::killed::written;
use super::*;
use crate::process::RuntimeDir;
use crate::process::output::Stream;
use crate::supervisor::app::ManagedApp;
use std::collections::BTreeMap;

/// A supervisor that can be killed: nothing of it runs on, and nothing is tidied up.
pub(super) struct One {
    pub(super) control: Control,
    pub(super) pool: Arc<Pool>,
    pub(super) output: Written,
    runtime: Option<tokio::runtime::Runtime>,
}

pub(super) const TALK: &str =
    "let n = 0; setInterval(() => { process.stdout.write('line '); process.stdout.write(`${n++} end\\n`) }, 1);";

pub(super) fn setup(base: &std::path::Path, app: (Spec, Policy)) -> (Setup, Arc<Pool>, Written) {
    let (pool, output) = (new_pool(), Written::default());
    let setup = Setup {
        apps: vec![AppSpec { name: "chat".into(), spec: app.0, policy: app.1, pool: pool.clone() }],
        runtime_dir: base.join("run"),
        port: 8000,
        keep_alive: Duration::from_secs(75),
        orphan_timeout: Duration::from_secs(30),
        logs: Default::default(),
        alarms: Default::default(),
        guarded: None,
        output: Some(Box::new(output.clone())),
    };
    (setup, pool, output)
}

/// Until nobody holds the directory. A process that another test is just starting has our descriptors until its exec,
/// the lock's among them.
fn wait_for_lock(dir: &std::path::Path) {
    use rustix::fs::{FlockOperation, flock};
    let free = || match std::fs::File::open(dir.join("lock")) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(_) => true,
    };
    let tries = (0..2000).take_while(|_| !free()).map(|_| std::thread::sleep(Duration::from_millis(5)));
    assert!(tries.count() < 2000, "{} stays locked", dir.display());
}

impl One {
    pub(super) fn start(base: &std::path::Path, app: (Spec, Policy)) -> One {
        wait_for_lock(&base.join("run"));
        let (setup, pool, output) = setup(base, app);
        let (supervisor, control) = Supervisor::new(setup).unwrap();
        One::run(supervisor, control, pool, output)
    }

    /// The successor of `old`, passive.
    pub(super) async fn successor(old: &One, base: &std::path::Path, app: (Spec, Policy)) -> (One, TakeoverHandle) {
        let snapshot = old.control.pause().await.unwrap();
        let text = serde_json::to_vec(&snapshot).unwrap();
        let dir = RuntimeDir::inherit(&base.join("run"), old.control.lock().unwrap()).unwrap();
        let (setup, pool, output) = setup(base, app);
        let (supervisor, control, handle) = Supervisor::successor(setup, dir, Snapshot::parse(&text).unwrap()).unwrap();
        (One::run(supervisor, control, pool, output), handle)
    }

    fn run(supervisor: Supervisor, control: Control, pool: Arc<Pool>, output: Written) -> One {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.spawn(async move {
            let (_shutdown, shutdown_in) = watch::channel(false);
            supervisor.start(shutdown_in).await;
        });
        One { control, pool, output, runtime: Some(runtime) }
    }

    pub(super) async fn crash(mut self) {
        if let Some(dir) = self.control.dir.upgrade() {
            dir.cede();
        }
        self.runtime.take().unwrap().shutdown_background();
        while self.control.dir.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Arc<Status> {
        until(&self.control, what, wanted, || self.output.text()).await
    }

    pub(super) async fn ready(&self, workers: usize) -> Vec<Option<u32>> {
        let status = self.until("ready", |s| s.epoch.is_some() && s.apps.iter().all(|a| a.ready() == workers)).await;
        // One that takes over knows this before its start.
        let published = async {
            while self.pool.select(Wanted::Any, Use::Request, &[]).is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(10), published).await.expect("never published");
        status.apps[0].workers.iter().filter(|w| w.state == State::Ready).map(|w| w.pid).collect()
    }

    pub(super) async fn end(mut self, base: PathBuf) {
        self.control.stop();
        timeout(Duration::from_secs(30), self.control.finished()).await.expect("never finished").unwrap();
        self.runtime.take().unwrap().shutdown_background();
        assert_eq!(processes_with(&base.to_string_lossy()), Vec::<String>::new(), "processes are left");
        let left: Vec<_> = std::fs::read_dir(&base).unwrap().collect();
        assert!(left.is_empty(), "left: {left:?}");
        std::fs::remove_dir(&base).unwrap();
    }

    pub(super) async fn says(&self, text: &str) {
        let wait = async {
            while !self.output.text().contains(text) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never {text}: {}", self.output.text()));
    }
}

impl Drop for One {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The numbers of the lines that a worker has written, over several proxies: all whole, none missing.
fn assert_whole(outputs: &[&str]) -> usize {
    let mut workers: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for line in outputs.iter().flat_map(|text| text.lines()).filter(|line| line.contains("| ")) {
        let (head, said) = line.split_once(" | ").unwrap();
        let number = said.strip_prefix("line ").and_then(|rest| rest.strip_suffix(" end"));
        let number = number.unwrap_or_else(|| panic!("torn: {line}"));
        workers.entry(head.split(' ').nth(2).unwrap()).or_default().push(number.parse().unwrap());
    }
    for (pid, numbers) in &workers {
        assert!(numbers.iter().enumerate().all(|(n, said)| n as u32 == *said), "{pid}: {numbers:?}");
    }
    workers.len()
}

pub(super) fn two(script: &str) -> (Spec, Policy) {
    (node(&format!("{HELLO}{script}")), Policy { instances: 2, ..policy() })
}

#[tokio::test]
async fn workers_are_handed_over_and_lose_no_line() {
    let base = base_dir();
    let old = One::start(&base, two(TALK));
    let pids = old.ready(2).await;
    old.says("line 50 end").await;
    let (new, handle) = One::successor(&old, &base, two(TALK)).await;
    timeout(Duration::from_secs(10), handle.bound).await.unwrap().unwrap();
    // Both serve.
    for pool in [&old.pool, &new.pool] {
        assert!(pool.select(Wanted::Any, Use::Request, &[]).is_some());
    }
    old.control.disconnect_workers().await;
    assert_eq!(timeout(Duration::from_secs(10), handle.ready).await.unwrap().unwrap(), Ok(()));
    let partials = old.control.pause_output().await;
    let partials: Vec<PartialLine> = serde_json::from_str(&serde_json::to_string(&partials).unwrap()).unwrap();
    handle.commit.send(partials).unwrap();
    old.control.release().await;
    old.control.finished().await.unwrap();
    assert_eq!(new.ready(2).await, pids);
    new.until("connected", |s| s.apps[0].workers.iter().all(|w| w.stats.is_some())).await;
    new.says("line ").await;
    let before = new.output.text().lines().count();
    let more = || new.output.text().lines().count() > before + 200;
    while !more() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(assert_whole(&[&old.output.text(), &new.output.text()]), 2);
    // The new one sees an exit and starts another.
    kill(pids[0].unwrap(), rustix::process::Signal::KILL);
    new.until("another", |s| s.apps[0].workers.iter().any(|w| w.state == State::Ready && !pids.contains(&w.pid))).await;
    new.end(base).await;
    drop(old);
}

#[tokio::test]
async fn a_handover_that_fails_at_any_step_changes_nothing() {
    let base = base_dir();
    let old = One::start(&base, two(TALK));
    let pids = old.ready(2).await;
    for step in 0..4 {
        let (new, handle) = One::successor(&old, &base, two(TALK)).await;
        let TakeoverHandle { bound, ready, commit } = handle;
        if step > 0 {
            bound.await.unwrap();
            old.control.disconnect_workers().await;
        }
        if step > 1 {
            ready.await.unwrap().unwrap();
        }
        if step > 2 {
            old.control.pause_output().await;
        }
        drop(commit);
        assert!(timeout(Duration::from_secs(10), new.control.finished()).await.unwrap().is_err());
        drop(new);
        old.control.resume().await;
        assert_eq!(old.ready(2).await, pids);
        // They dial in again: their statistics go on.
        let last = old.control.status().apps[0].workers[0].stats;
        old.until("heard again", |s| s.apps[0].workers[0].stats != last).await;
        let lines = old.output.text().lines().count();
        while old.output.text().lines().count() < lines + 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(assert_whole(&[&old.output.text()]), 2);
    old.end(base).await;
}

#[tokio::test]
async fn another_configuration_rolls_out_after_the_handover() {
    let base = base_dir();
    let old = One::start(&base, two(""));
    let pids = old.ready(2).await;
    let (new, handle) = One::successor(&old, &base, two("/* changed */")).await;
    handle.bound.await.unwrap();
    old.control.disconnect_workers().await;
    handle.ready.await.unwrap().unwrap();
    handle.commit.send(old.control.pause_output().await).unwrap();
    old.control.release().await;
    new.until("rolled", |s| {
        let app = &s.apps[0];
        app.ready() == 2 && app.generation.0 == 2 && !app.workers.iter().any(|w| pids.contains(&w.pid))
    })
    .await;
    new.end(base).await;
}

#[tokio::test]
async fn a_stop_refuses_and_orders_are_told() {
    let base = base_dir();
    let old = One::start(&base, (node(HELLO), policy()));
    old.ready(1).await;
    let (new, handle) = One::successor(&old, &base, (node(HELLO), policy())).await;
    let control = old.control.clone();
    let order = tokio::spawn(async move { control.restart(None, None).await });
    handle.bound.await.unwrap();
    old.control.disconnect_workers().await;
    handle.ready.await.unwrap().unwrap();
    handle.commit.send(old.control.pause_output().await).unwrap();
    old.control.release().await;
    assert_eq!(order.await.unwrap(), Err("this proxy has handed over; ask again".to_owned()));
    assert!(old.control.pause().await.is_err());
    new.ready(1).await;
    new.control.stop();
    let _ = new.control.pause().await.map(|_| panic!("it stops"));
    new.end(base).await;
}

/// Whatever stands in the file, nothing panics and nobody else's process is touched.
#[tokio::test]
async fn a_hostile_snapshot_is_refused_or_harmless() {
    let base = base_dir();
    let old = One::start(&base, two(""));
    old.ready(2).await;
    old.control.alarms().raise(alarm("told"));
    let snapshot = old.control.pause().await.unwrap();
    old.control.resume().await;
    let text = serde_json::to_string(&snapshot).unwrap();
    assert!(text.contains("\"detail\":\"told\""));
    let dir = base.join("run");
    let restore = |text: &str| {
        let snapshot = Snapshot::parse(text.as_bytes())?;
        snapshot.restore(&dir, &crate::supervisor::child::adopt, |_| new_pool()).map(|restored| {
            let alarms = Alarms::new(Default::default());
            alarms.restore(restored.alarms, |_| true);
            alarms.raise(alarm("again"));
            alarms.observe(&Default::default());
            serde_json::to_string(&alarms.save()).unwrap();
            let processes = |app: &ManagedApp| app.workers.values().filter(|e| e.child.is_some()).count();
            restored.apps.iter().map(processes).sum::<usize>()
        })
    };
    assert_eq!(restore(&text), Ok(2));
    let pid = format!("\"process\":[{},", old.control.status().apps[0].workers[0].pid.unwrap());
    assert!(text.contains(&pid));
    let own = format!("\"process\":[{},", std::process::id());
    // Another process under the number, by its start time.
    assert_eq!(restore(&text.replace(&pid, &own)), Ok(1));
    assert_eq!(restore(&text.replace(&pid, "\"process\":[4294967295,")), Ok(1));
    assert_eq!(restore(&text.replace(&pid, "\"process\":[0,")), Ok(1));
    for (from, to, why) in [
        ("\"version\":1", "\"version\":2", "it has version 2, this program reads 1"),
        ("\"boot\":\"", "\"boot\":\"x", "it was written before the machine was started"),
        ("workers/chat.0", "workers/../chat.0", "is not its own"),
        ("\"epoch\":{\"secs\":", "\"epoch\":{\"secs\":99", "lies in the future"),
        ("\"slot\":0", "\"slot\":7", ""),
        ("\"desired\":2", "\"desired\":3", ""),
        ("\"token\":\"", "\"token\":\"zz", "a token has 32 hexadecimal digits"),
        ("\"state\":\"Ready\"", "\"state\":\"Draining\"", ""),
    ] {
        assert!(text.contains(from), "{from}");
        let outcome = restore(&text.replacen(from, to, 1));
        assert!(outcome.as_ref().is_err_and(|e| e.contains(why)), "{from}: {outcome:?}");
    }
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..2000 {
        let mut bytes = text.clone().into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes.truncate(at),
                1 => bytes[at] = random.u8(..),
                2 => bytes[at] = b'9',
                _ => bytes.insert(at, b'9'),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let _ = restore(&String::from_utf8_lossy(&bytes));
    }
    old.end(base).await;
}

fn alarm(detail: &str) -> alarms::Raised {
    alarms::Raised { kind: alarms::Kind::CannotScale, app: "chat".into(), slot: None, detail: detail.into() }
}

/// What the alarms of a proxy would hand on.
fn active(one: &One) -> serde_json::Value {
    serde_json::to_value(one.control.alarms().save()).unwrap()["active"].take()
}

#[tokio::test]
async fn alarms_go_over_and_the_old_proxy_tells_no_more() {
    let base = base_dir();
    let old = One::start(&base, two(""));
    old.ready(2).await;
    old.control.alarms().raise(alarm("told"));
    let told = active(&old);
    assert_eq!(told.as_array().unwrap().len(), 1);
    let (new, handle) = One::successor(&old, &base, two("")).await;
    assert_eq!(active(&new), told);
    drop(handle);
    let _ = new.control.finished().await;
    new.crash().await;
    old.control.resume().await;
    // A failed handover changes nothing; the next one comes about.
    let (new, handle) = One::successor(&old, &base, two("")).await;
    handle.bound.await.unwrap();
    old.control.disconnect_workers().await;
    handle.ready.await.unwrap().unwrap();
    handle.commit.send(old.control.pause_output().await).unwrap();
    old.control.release().await;
    old.control.finished().await.unwrap();
    old.crash().await;
    new.ready(2).await;
    assert_eq!(active(&new), told);
    // Killed once it runs, which its own file tells, with the alarm in it.
    // The one before may not have come to write one.
    let _ = std::fs::remove_file(base.join("run/state.json"));
    written(&base, |text| text.contains("\"detail\":\"told\"")).await;
    new.crash().await;
    let third = One::start(&base, two(""));
    third.ready(2).await;
    assert_eq!(active(&third), told);
    third.control.alarms().clear(alarms::Kind::CannotScale, &"chat".into(), None);
    // It is written down at once, not with the next count.
    written(&base, |text| !text.contains("\"detail\":\"told\"")).await;
    third.end(base).await;
}

#[test]
fn partial_lines_can_be_written_down() {
    let partial = PartialLine { app: "a".into(), incarnation: 7, stream: Stream::Err, bytes: vec![0xff, 0] };
    let text = serde_json::to_string(&partial).unwrap();
    assert_eq!(serde_json::from_str::<PartialLine>(&text).unwrap(), partial);
}
