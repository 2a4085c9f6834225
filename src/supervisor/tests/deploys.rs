//! Reload, restart, scaling, health and crash loops with real workers.

use super::*;
use crate::fleet::policy::{Crashes, Health, Limits, Scaling};
use crate::process::spec::Spec;
use crate::worker::{Generation, Slot};

fn saying(text: &str) -> String {
    format!("require('http').createServer((q, s) => s.end({text:?})).listen(3000);")
}

fn quick() -> Policy {
    Policy { min_ready: Duration::from_millis(200), drain_window: Duration::from_millis(200), ..policy() }
}

fn app(stage: &Stage, spec: Spec, policy: Policy) -> AppSpec {
    AppSpec { name: "app0".into(), spec, policy, pool: stage.pools[0].clone() }
}

impl Stage {
    async fn reload(&self, apps: Vec<AppSpec>) -> Result<String, String> {
        self.control.reload(apps, ReloadScope::Changed, None, Box::new(|| ())).await
    }

    /// What the workers that traffic reaches answer.
    async fn answers(&self) -> Vec<String> {
        let mut answers = Vec::new();
        let status = self.control.status();
        for worker in status.apps[0].workers.iter().filter(|w| w.state == State::Ready) {
            let answer = get(worker.socket.as_ref().unwrap()).await;
            answers.push(answer.rsplit("\r\n").next().unwrap_or_default().to_owned());
        }
        answers
    }

    /// Sees to the end of `until` how few workers were ever open.
    fn fewest(&self) -> tokio::task::JoinHandle<usize> {
        let mut control = self.control.clone();
        let pool = self.pools[0].clone();
        tokio::spawn(async move {
            let mut fewest = usize::MAX;
            loop {
                let status = control.changed().await;
                let Some(app) = status.apps.first() else { return fewest };
                if app.generation >= Generation(2) {
                    return fewest;
                }
                fewest = fewest.min(app.ready());
                assert!(pool.select(Wanted::Any, Use::Request, &[]).is_some(), "nobody takes requests");
            }
        })
    }
}

#[tokio::test]
async fn a_reload_replaces_one_by_one_and_never_has_too_few() {
    let three = Policy { instances: 3, ..quick() };
    let stage = Stage::start(vec![(node(&saying("one")), three.clone())]);
    let before = stage.ready(3).await;
    let pids: Vec<_> = before.apps[0].workers.iter().map(|w| w.pid).collect();
    let fewest = stage.fewest();
    let outcome = stage.reload(vec![app(&stage, node(&saying("one")), three.clone())]).await;
    let unchanged = outcome.unwrap();
    assert!(unchanged.starts_with("app0: unchanged since 20"), "{unchanged}");
    assert!(unchanged.ends_with("; `reload app0` rolls it"), "{unchanged}");
    let outcome = stage.reload(vec![app(&stage, node(&saying("two")), three.clone())]).await.unwrap();
    assert!(outcome.starts_with("app0: generation 2 runs: 3 workers replaced in "), "{outcome}");
    assert!(timeout(Duration::from_secs(10), fewest).await.unwrap().unwrap() >= 3);
    stage.until("alone", |status| status.apps[0].workers.len() == 3).await;
    assert_eq!(stage.answers().await, ["two"; 3]);
    let after = stage.control.status();
    let mut slots: Vec<u16> = after.apps[0].workers.iter().map(|w| w.slot.0).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2], "the same seats");
    assert!(after.apps[0].workers.iter().all(|w| !pids.contains(&w.pid) && w.generation == Generation(2)));
    // A restart is the same code as a new generation.
    let outcome = stage.control.restart(Some("app0".into()), None).await.unwrap();
    assert!(outcome.starts_with("app0: generation 3 runs"), "{outcome}");
    assert!(stage.control.restart(Some("app7".into()), None).await.unwrap_err().contains("no app app7"));
    stage.end().await;
}

#[tokio::test]
async fn code_that_exits_at_boot_changes_nothing_and_says_why() {
    let two = Policy { instances: 2, ..quick() };
    let stage = Stage::start(vec![(node(&saying("one")), two.clone())]);
    let before = stage.ready(2).await;
    let broken = "console.error('no database'); process.exit(7)";
    let outcome = stage.reload(vec![app(&stage, node(broken), two.clone())]).await;
    let why = outcome.unwrap_err();
    for part in ["generation 1 goes on", "slot 0: exited with code 7", "its last lines of output:\n  no database"] {
        assert!(why.contains(part), "{part:?} is not in {why}");
    }
    let after = stage.until("alone", |status| status.apps[0].workers.len() == 2).await;
    let pids = |status: &Status| status.apps[0].workers.iter().map(|w| w.pid).collect::<Vec<_>>();
    assert_eq!(pids(&before), pids(&after));
    let why = why.strip_suffix("\nroutes, limits and all else of the file stay as they were").unwrap().to_owned();
    assert_eq!(after.apps[0].last_rollout.as_ref().unwrap().1, Err(why));
    // Code that never listens.
    let deaf = Policy { start_timeout: Duration::from_millis(500), ..two.clone() };
    let why = stage.reload(vec![app(&stage, node("setInterval(() => {}, 1000)"), deaf)]).await.unwrap_err();
    assert!(why.contains("not ready within 500ms: no server of it listens yet"), "{why}");
    assert_eq!(stage.answers().await, ["one"; 2]);
    // A directory that is not there: nothing is begun.
    let nowhere = Spec { cwd: "/no/such/dir".into(), ..node(&saying("two")) };
    let why = stage.reload(vec![app(&stage, nowhere, two)]).await.unwrap_err();
    assert!(why.starts_with("nothing was changed: app0: cannot use working directory /no/such/dir"), "{why}");
    stage.end().await;
}

#[tokio::test]
async fn when_the_third_fails_the_first_two_go_back() {
    let three = Policy { instances: 3, ..quick() };
    let stage = Stage::start(vec![(node(&saying("one")), three.clone())]);
    stage.ready(3).await;
    let script = format!("if (process.env.NODE_APP_INSTANCE === '2') throw new Error('third'); {}", saying("two"));
    let why = stage.reload(vec![app(&stage, node(&script), three)]).await.unwrap_err();
    assert!(why.contains("slot 2: exited with code 1") && why.contains("Error: third"), "{why}");
    stage
        .until("back", |status| {
            let workers = &status.apps[0].workers;
            workers.len() == 3 && workers.iter().all(|w| w.generation == Generation(1) && w.state == State::Ready)
        })
        .await;
    assert_eq!(stage.answers().await, ["one"; 3]);
    stage.end().await;
}

#[tokio::test]
async fn a_newer_reload_takes_the_place_of_one_under_way() {
    let two = Policy { instances: 2, ..quick() };
    let stage = Stage::start(vec![(node(&saying("one")), two.clone())]);
    stage.ready(2).await;
    let slow = format!("setTimeout(() => {{ {} }}, 5000)", saying("slow"));
    let (control, spec) = (stage.control.clone(), app(&stage, node(&slow), two.clone()));
    let first =
        tokio::spawn(async move { control.reload(vec![spec], ReloadScope::Changed, None, Box::new(|| ())).await });
    stage.until("begun", |status| status.apps[0].rolling == Some(Generation(2))).await;
    let second = stage.reload(vec![app(&stage, node(&saying("three")), two)]).await;
    assert!(second.unwrap().contains("generation 3 runs"));
    let why = first.await.unwrap().unwrap_err();
    assert_eq!(why, "app0: generation 2 was given up for generation 3: a newer rollout took its place");
    stage.until("alone", |status| status.apps[0].workers.len() == 2).await;
    assert_eq!(stage.answers().await, ["three"; 2]);
    stage.end().await;
}

#[tokio::test]
async fn a_crashed_worker_starts_where_its_generation_began() {
    let code = base_dir();
    for release in ["v1", "v2"] {
        std::fs::create_dir(code.join(release)).unwrap();
        std::fs::write(code.join(release).join("app.js"), saying(release)).unwrap();
    }
    std::os::unix::fs::symlink(code.join("v1"), code.join("current")).unwrap();
    let spec = Spec { cwd: code.join("current"), ..spec(&["node", "app.js"], true) };
    let stage = Stage::start(vec![(spec.clone(), quick())]);
    let pid = stage.ready(1).await.apps[0].workers[0].pid.unwrap();
    std::fs::remove_file(code.join("current")).unwrap();
    std::os::unix::fs::symlink(code.join("v2"), code.join("current")).unwrap();
    kill(pid, rustix::process::Signal::KILL);
    stage.until("back", |s| s.apps[0].workers.iter().any(|w| w.state == State::Ready && w.pid != Some(pid))).await;
    assert_eq!(stage.answers().await, ["v1"]);
    // The same configuration, another directory behind it.
    let outcome = stage.reload(vec![app(&stage, spec, quick())]).await.unwrap();
    assert!(outcome.contains("generation 2 runs"), "{outcome}");
    assert_eq!(stage.answers().await, ["v2"]);
    stage.end().await;
    std::fs::remove_dir_all(code).unwrap();
}

#[tokio::test]
async fn tunnels_of_a_replaced_worker_are_closed_and_waited_for() {
    let stage = Stage::start(vec![(node(&saying("one")), quick())]);
    stage.ready(1).await;
    let lease = stage.pools[0].select(Wanted::Any, Use::Parked, &[]).unwrap();
    let old = lease.member().clone();
    let key = old.tunnels.enter(std::task::Waker::noop().clone(), None);
    let outcome = stage.control.restart(None, None).await;
    assert!(outcome.is_ok(), "{outcome:?}");
    let closing = old.tunnels.asked(key).unwrap();
    assert_eq!((closing.code, closing.window), (1012, Duration::from_millis(200)));
    let draining = |status: &Status| status.apps[0].workers.iter().any(|w| w.state == State::Draining);
    stage.until("draining", draining).await;
    assert!(timeout(Duration::from_millis(400), stage.until("gone", |s| !draining(s))).await.is_err());
    // A sid of it still finds it, a new session does not.
    let sid = format!("0123456789abcdefg{}", old.tag.unwrap());
    let owner =
        stage.pools[0].select(Wanted::Sid { sid: sid.as_bytes(), path: b"/socket.io/" }, Use::Request, &[]).unwrap();
    assert_eq!(owner.member().id, old.id);
    let new = stage.pools[0].select(Wanted::NewSession, Use::Request, &[]).unwrap();
    assert_ne!(new.member().id, old.id);
    drop((owner, new));
    old.tunnels.leave(key);
    drop(lease);
    stage.until("gone", |status| status.apps[0].workers.len() == 1).await;
    stage.end().await;
}

#[tokio::test]
async fn apps_come_and_go_with_a_reload() {
    let stage = Stage::start(vec![(node(&saying("one")), quick())]);
    stage.ready(1).await;
    let other = |script: &str| AppSpec {
        name: "other".into(),
        spec: node(script),
        policy: quick(),
        pool: stage.pools[0].clone(),
    };
    let both = vec![app(&stage, node(&saying("one")), quick()), other(&saying("other"))];
    let outcome = stage.reload(both).await.unwrap();
    assert!(outcome.contains("app0: unchanged") && outcome.contains("other: 1 worker is ready"), "{outcome}");
    let outcome = stage.reload(vec![other(&saying("other"))]).await.unwrap();
    assert!(outcome.contains("app0: stops, it is not configured any more"), "{outcome}");
    stage.until("gone", |status| status.apps.len() == 1).await;
    // Back again, and this time it fails.
    let both = vec![app(&stage, node("process.exit(3)"), quick()), other(&saying("other"))];
    let why = stage.reload(both).await.unwrap_err();
    assert!(why.starts_with("app0: 0 of 1 workers are ready: slot 0:") && why.contains("code 3"), "{why}");
    assert!(stage.reload(vec![]).await.unwrap_err().contains("no app would be left"));
    stage.end().await;
}

#[tokio::test]
async fn scaling_by_hand_and_back() {
    let stage = Stage::start(vec![(node(&saying("one")), Policy { instances: 2, ..quick() })]);
    stage.ready(2).await;
    assert_eq!(stage.control.scale("app0", ScaleTo::By(1)).await.unwrap(), "app0: 3 workers are ready");
    assert_eq!(stage.control.status().apps[0].ready(), 3);
    stage.control.scale("app0", ScaleTo::Count(1)).await.unwrap();
    // Nobody has a session there.
    stage.until("gone", |status| status.apps[0].workers.len() == 1).await;
    assert_eq!(stage.control.status().apps[0].workers[0].slot, Slot(0));
    assert!(stage.control.scale("app0", ScaleTo::By(-1)).await.unwrap_err().contains("1 to 1024"));
    assert_eq!(stage.control.scale("app0", ScaleTo::Auto).await.unwrap(), "app0: 2 workers are ready");
    stage.end().await;
}

#[tokio::test]
async fn a_stopped_worker_gets_nothing_and_is_replaced() {
    let health = Health {
        heartbeat_timeout: Duration::from_secs(3),
        unhealthy_timeout: Duration::from_secs(1),
        ..Health::default()
    };
    let stage = Stage::start(vec![(node(&saying("one")), Policy { instances: 2, health, ..quick() })]);
    let status = stage.ready(2).await;
    // Its heart must have begun to beat.
    stage.until("measured", |s| s.apps[0].workers.iter().all(|w| w.stats.is_some() && w.usage.is_some())).await;
    let victim = &status.apps[0].workers[0];
    let pid = victim.pid.unwrap();
    kill(pid, rustix::process::Signal::STOP);
    let began = std::time::Instant::now();
    let held: Vec<_> = (0..2).filter_map(|_| stage.pools[0].select(Wanted::Any, Use::Request, &[])).collect();
    let theirs = |lease: &&crate::pool::Lease| lease.member().id.incarnation == victim.incarnation;
    let member = held.iter().find(theirs).unwrap().member().clone();
    drop(held);
    assert!(!member.silence.is_silent());
    let of = move |status: &Status| status.apps[0].workers.iter().find(|w| w.pid == Some(pid)).map(|w| w.state);
    stage.until("unhealthy", |status| of(status) == Some(State::Unhealthy)).await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    timeout(Duration::from_secs(1), member.silence.fallen()).await.expect("who waits for it is told");
    for _ in 0..20 {
        let lease = stage.pools[0].select(Wanted::Any, Use::Request, &[]).unwrap();
        assert_ne!(lease.member().id.incarnation, victim.incarnation);
    }
    stage.until("killed", |status| of(status).is_none()).await;
    stage.ready(2).await;
    stage.end().await;
}

#[tokio::test]
async fn a_worker_that_wakes_up_comes_back() {
    let health = Health {
        heartbeat_timeout: Duration::from_secs(2),
        unhealthy_timeout: Duration::from_secs(60),
        ..Health::default()
    };
    let stage = Stage::start(vec![(node(&saying("one")), Policy { health, ..quick() })]);
    stage.ready(1).await;
    let status = stage.until("measured", |s| s.apps[0].workers.iter().all(|w| w.stats.is_some())).await;
    let pid = status.apps[0].workers[0].pid.unwrap();
    kill(pid, rustix::process::Signal::STOP);
    stage.until("unhealthy", |s| s.apps[0].workers[0].state == State::Unhealthy).await;
    assert!(stage.pools[0].select(Wanted::Any, Use::Request, &[]).is_none());
    kill(pid, rustix::process::Signal::CONT);
    let status = stage.ready(1).await;
    assert_eq!(status.apps[0].workers[0].pid, Some(pid));
    stage.end().await;
}

#[tokio::test]
async fn the_app_s_own_health_check_is_asked_over_its_socket() {
    let script = "let well = true; process.on('SIGUSR2', () => { well = !well });
        require('http').createServer((q, s) => { s.statusCode = q.url === '/healthz' && well ? 200 : 503; s.end() }).listen(3000);";
    let health = Health {
        path: Some("/healthz".into()),
        interval: Duration::from_millis(100),
        unhealthy_threshold: 2,
        ..Health::default()
    };
    let stage = Stage::start(vec![(node(script), Policy { health, ..quick() })]);
    let pid = stage.ready(1).await.apps[0].workers[0].pid.unwrap();
    // Healthy answers keep it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(stage.control.status().apps[0].ready(), 1);
    kill(pid, rustix::process::Signal::USR2);
    let status = stage.until("unhealthy", |s| s.apps[0].workers[0].state == State::Unhealthy).await;
    assert!(status.apps[0].workers[0].reason.contains("its health check fails: status 503"), "{status:?}");
    kill(pid, rustix::process::Signal::USR2);
    assert_eq!(stage.ready(1).await.apps[0].workers[0].pid, Some(pid));
    stage.end().await;
}

#[tokio::test]
async fn a_slow_crash_loop_is_found_and_says_so() {
    let script = format!("{} setTimeout(() => {{ console.error('bang'); process.exit(9) }}, 600)", saying("one"));
    let crashes = Crashes { max: 3, window: Duration::from_secs(30), retry: Duration::from_secs(60) };
    let impatient = Policy { min_uptime: Duration::from_millis(100), crashes, ..quick() };
    let stage = Stage::start(vec![(node(&script), impatient)]);
    let status = stage.until("failed", |status| status.apps[0].slots.iter().any(|slot| slot.is_failed)).await;
    let slot = &status.apps[0].slots[0];
    assert_eq!((slot.last_exit.as_deref(), &*slot.last_words), (Some("exited with code 9"), &["bang".to_owned()][..]));
    let raised = serde_json::to_value(stage.control.alarms().save()).unwrap();
    let raised = &raised["active"][0];
    assert_eq!(raised["key"]["kind"], "crash-loop", "{raised}");
    let detail = raised["detail"].as_str().unwrap();
    assert!(detail.contains("3 times within 30s: a crash loop") && detail.contains("\n  bang"), "{detail}");
    stage.end().await;
}

#[tokio::test]
async fn a_worker_that_grows_is_replaced() {
    let script =
        format!("{} process.on('SIGUSR2', () => {{ globalThis.kept = Buffer.alloc(120 << 20, 1) }})", saying("one"));
    let limits = Limits { memory: Some(150 << 20), ..Limits::default() };
    let stage = Stage::start(vec![(node(&script), Policy { limits, ..quick() })]);
    let pid = stage.ready(1).await.apps[0].workers[0].pid.unwrap();
    let fewest = stage.fewest();
    kill(pid, rustix::process::Signal::USR2);
    stage.until("replaced", |s| s.apps[0].workers.iter().all(|w| w.pid != Some(pid) && w.state == State::Ready)).await;
    assert_eq!(stage.control.status().apps[0].slots[0].failures, 0, "no crash");
    fewest.abort();
    stage.end().await;
}

#[tokio::test]
async fn the_load_brings_workers_and_takes_them_away() {
    let script = "let busy = false; process.on('SIGUSR2', () => { busy = !busy; spin() });
        function spin() { if (!busy) return; const end = Date.now() + 90; while (Date.now() < end); setTimeout(spin, 1) }
        require('http').createServer((q, s) => s.end('x')).listen(3000);";
    let scaling = Scaling {
        up_window: Duration::from_secs(2),
        down_window: Duration::from_secs(3),
        young: Duration::from_millis(500),
        ..Scaling::default()
    };
    let policy = Policy { instances: 1, max_instances: 2, scaling, ..quick() };
    let stage = Stage::start(vec![(node(script), policy)]);
    let pid = stage.ready(1).await.apps[0].workers[0].pid.unwrap();
    kill(pid, rustix::process::Signal::USR2);
    stage.until("grown", |status| status.apps[0].ready() == 2).await;
    kill(pid, rustix::process::Signal::USR2);
    stage.until("shrunk", |status| status.apps[0].workers.len() == 1).await;
    stage.end().await;
}
