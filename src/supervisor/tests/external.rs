//! Workers that somebody else starts, over two proxies.

use super::takeover::One;
use super::*;
use crate::process::spec::External;
use std::process::{Child, Command, Stdio};

struct Worker(Child);

impl Worker {
    fn start(directory: &std::path::Path) -> Worker {
        let script = "require('http').createServer((q, s) => s.end('hello')).listen(3000)";
        let options = format!("--require {}/preload.cjs", directory.display());
        let mut command = Command::new("node");
        command.args(["-e", script]).env("NODE_OPTIONS", options).env("PINGORA_UNIX_PROXY_JOIN", directory);
        Worker(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have been killed in the test.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn app(directory: &std::path::Path) -> (Spec, Policy) {
    let own = rustix::process::geteuid().as_raw();
    let external = External { directory: directory.to_owned(), users: vec![own] };
    let policy = Policy { instances: 1, max_instances: 4, external: true, ..policy() };
    (Spec { external: Some(external), ..spec(&[], true) }, policy)
}

async fn there(path: &std::path::Path) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn they_are_handed_over_or_kept() {
    let (base, shared) = (base_dir(), base_dir());
    let old = One::start(&base, app(&shared));
    there(&shared.join("control.sock")).await;
    let mut workers = [Worker::start(&shared), Worker::start(&shared)];
    let mut pids = old.ready(2).await;
    // A successor that gives up before it is ready, and one that does after.
    for late in [false, true] {
        let (new, handle) = One::successor(&old, &base, app(&shared)).await;
        handle.bound.await.unwrap();
        old.control.disconnect_workers().await;
        if late {
            assert_eq!(handle.ready.await.unwrap(), Ok(()));
        }
        drop(handle.commit);
        assert!(timeout(Duration::from_secs(10), new.control.finished()).await.unwrap().is_err());
        drop(new);
        old.control.resume().await;
        let last = old.control.status().apps[0].workers[0].stats;
        old.until("heard again", |s| s.apps[0].workers[0].stats != last).await;
        assert_eq!(old.ready(2).await, pids);
    }
    let before = old.control.status().apps[0].workers.iter().map(|w| w.incarnation).collect::<Vec<_>>();
    let (new, handle) = One::successor(&old, &base, app(&shared)).await;
    handle.bound.await.unwrap();
    old.control.disconnect_workers().await;
    assert_eq!(timeout(Duration::from_secs(10), handle.ready).await.unwrap().unwrap(), Ok(()));
    handle.commit.send(old.control.pause_output().await).unwrap();
    old.control.release().await;
    old.control.finished().await.unwrap();
    drop(old);
    assert_eq!(new.ready(2).await, pids);
    let after = new.control.status().apps[0].workers.iter().map(|w| w.incarnation).collect::<Vec<_>>();
    assert_eq!(before, after);
    new.until("connected", |s| s.apps[0].workers.iter().all(|w| w.stats.is_some())).await;
    // What the old one left behind is the new one's, and it takes in others.
    let third = Worker::start(&shared);
    new.ready(3).await;
    drop(third);
    new.ready(2).await;
    workers[0].0.kill().unwrap();
    pids.retain(|pid| *pid != Some(workers[0].0.id()));
    assert_eq!(new.ready(1).await, pids);
    new.end(base).await;
    assert!(workers[1].0.try_wait().unwrap().is_none(), "it must live on");
    drop(workers);
    assert!(!shared.join("control.sock").exists() && shared.join("preload.cjs").exists());
    std::fs::remove_dir_all(shared).unwrap();
}
