//! A proxy that was killed, and the next one, which finds what it has written down.

use super::takeover::{One, TALK, setup, two};
use super::*;

#[tokio::test]
async fn a_killed_proxy_s_workers_are_taken_over() {
    let base = base_dir();
    let old = One::start(&base, two(TALK));
    let pids = old.ready(2).await;
    let tags = |one: &One| {
        let leases: Vec<_> = (0..2).filter_map(|_| one.pool.select(Wanted::Any, Use::Request, &[])).collect();
        leases.iter().map(|lease| lease.member().tag.unwrap()).collect::<std::collections::BTreeSet<_>>()
    };
    let before = tags(&old);
    let second = Supervisor::new(setup(&base, two(TALK)).0).err().unwrap().to_string();
    assert!(second.contains("is in use by another proxy, pid"), "{second}");
    written(&base, |text| text.matches("\"state\":\"Ready\"").count() == 2).await;
    old.crash().await;
    let new = One::start(&base, two(TALK));
    assert_eq!(new.ready(2).await, pids);
    assert_eq!(tags(&new), before);
    new.until("connected", |s| s.apps[0].workers.iter().all(|w| w.stats.is_some())).await;
    new.says(" end\n").await;
    // Once more, with one that dies meanwhile.
    written(&base, |text| text.matches("\"state\":\"Ready\"").count() == 2).await;
    new.crash().await;
    kill(pids[1].unwrap(), rustix::process::Signal::KILL);
    let third = One::start(&base, two(TALK));
    let back = |s: &Status| s.apps[0].ready() == 2 && !s.apps[0].workers.iter().any(|w| w.pid == pids[1]);
    let status = third.until("another", back).await;
    assert!(status.apps[0].workers.iter().any(|w| w.pid == pids[0]), "{status:?}");
    let slot = status.apps[0].slots.iter().find(|slot| slot.restarts == 1).expect("it is counted");
    // It is our child, so we hear how.
    assert_eq!(slot.last_exit.as_deref(), Some("killed by SIGKILL"));
    third.end(base).await;
}

#[tokio::test]
async fn a_worker_without_the_preload_is_taken_over() {
    let script = "require('http').createServer((q, s) => s.end('x')).listen(process.argv[1])";
    let app = || (spec(&["node", "-e", script, "{socket}"], false), policy());
    let base = base_dir();
    let old = One::start(&base, app());
    let pids = old.ready(1).await;
    let owner = old.pool.select(Wanted::Any, Use::Request, &[]).unwrap();
    old.pool.learn(b"sid-without-a-tag", owner.member());
    written(&base, |text| text.contains("\"state\":\"Ready\"") && text.contains("sid-without-a-tag")).await;
    old.crash().await;
    let new = One::start(&base, app());
    assert_eq!(new.ready(1).await, pids);
    assert_eq!(new.pool.learnt(9), [(b"sid-without-a-tag"[..].into(), owner.member().id.clone())]);
    drop(owner);
    new.end(base).await;
}

/// Waits until the state file is as wanted, and returns it.
pub(super) async fn written(base: &std::path::Path, wanted: impl Fn(&str) -> bool) -> String {
    let wait = async {
        loop {
            let text = std::fs::read_to_string(base.join("run/state.json")).unwrap_or_default();
            if wanted(&text) {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.expect("never written")
}

#[tokio::test]
async fn a_damaged_state_file_is_set_aside_and_its_workers_end() {
    let base = base_dir();
    let old = One::start(&base, two(""));
    let pids = old.ready(2).await;
    let text = written(&base, |text| text.matches("\"state\":\"Ready\"").count() == 2).await;
    old.crash().await;
    std::fs::write(base.join("run/state.json"), &text[..text.len() / 2]).unwrap();
    let new = One::start(&base, two(""));
    assert!(new.ready(2).await.iter().all(|pid| !pids.contains(pid)));
    let bad = base.join("run/state.json.bad");
    assert_eq!(std::fs::read_to_string(&bad).unwrap().len(), text.len() / 2);
    let gone = async {
        while pids
            .iter()
            .any(|pid| std::path::Path::new(&format!("/proc/{}/environ", pid.unwrap())).exists() && alive(pid.unwrap()))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), gone).await.expect("strangers go on");
    new.end(base).await;
}

/// What stands in the file keeps nobody from starting.
#[tokio::test]
async fn an_app_that_cannot_be_is_not_taken_over() {
    let base = base_dir();
    let old = One::start(&base, two(""));
    old.ready(2).await;
    let text = written(&base, |text| text.matches("\"state\":\"Ready\"").count() == 2).await;
    old.crash().await;
    std::fs::write(base.join("run/state.json"), text.replacen("\"name\":\"chat\"", "\"name\":\"../../chat\"", 1))
        .unwrap();
    let new = One::start(&base, two(""));
    new.ready(2).await;
    assert!(base.join("run/state.json.bad").exists());
    let gone = async {
        while processes_with(&base.to_string_lossy()).len() > 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), gone).await.expect("strangers go on");
    new.end(base).await;
}

/// A proxy that was killed between what it has written down and the start of the process.
#[tokio::test]
async fn what_was_to_be_started_is_started_once() {
    let base = base_dir();
    let old = One::start(&base, two(""));
    let named = written(&base, |text| !text.is_empty()).await;
    assert!(named.contains("\"pid\":null") && named.contains("\"process\":null"), "{named}");
    let pids = old.ready(2).await;
    old.crash().await;
    std::fs::write(base.join("run/state.json"), &named).unwrap();
    // The processes have come to be.
    let second = One::start(&base, two(""));
    assert_eq!(second.ready(2).await, pids);
    second.crash().await;
    for pid in pids.iter().flatten().copied() {
        kill(pid, rustix::process::Signal::KILL);
        // One that is still dying would be taken over.
        while alive(pid) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    std::fs::write(base.join("run/state.json"), &named).unwrap();
    // They have not, which is nobody's failure.
    let third = One::start(&base, two(""));
    assert!(third.ready(2).await.iter().all(|pid| !pids.contains(pid)));
    let app = &third.control.status().apps[0];
    assert!(app.slots.iter().all(|slot| slot.failures == 0 && slot.restarts == 0), "{app:?}");
    third.end(base).await;
}

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
