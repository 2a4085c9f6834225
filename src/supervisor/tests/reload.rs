//! A file comes into force for all apps or for none.

use super::fast::{Fast, chat};
use super::*;
use crate::supervisor::reload::NOT_IN_FORCE;
use std::sync::atomic::AtomicBool;

fn named(name: &str, argument: &str, fast: &Fast) -> AppSpec {
    AppSpec { name: name.into(), ..chat(2, argument, &fast.pool) }
}

impl Fast {
    /// What the ready workers of an app were started with.
    fn arguments(&self, name: &str) -> Vec<String> {
        let status = self.control.status();
        let app = status.apps.iter().filter(|app| *app.name == *name);
        let workers = app.flat_map(|app| app.workers.iter()).filter(|worker| worker.state == State::Ready);
        workers.filter_map(|worker| Some(self.machine.child(worker.pid?).argument().to_owned())).collect()
    }

    async fn runs(&self, name: &str, argument: &str) {
        self.until(&format!("{name} {argument}"), |_| self.arguments(name) == [argument; 2]).await;
    }

    /// The outcome, and whether the rest of the file came into force.
    async fn reload(&self, apps: Vec<AppSpec>) -> (Result<String, String>, bool) {
        begin(&self.control, apps).await
    }
}

async fn begin(control: &Control, apps: Vec<AppSpec>) -> (Result<String, String>, bool) {
    let enforced = Arc::new(AtomicBool::new(false));
    let enforce = enforced.clone();
    let enforce = Box::new(move || enforce.store(true, Ordering::Relaxed));
    let outcome = control.reload(apps, ReloadScope::Changed, None, enforce).await;
    (outcome, enforced.load(Ordering::Relaxed))
}

/// Two apps at work, `chat` and `news`.
async fn two() -> Fast {
    let fast = Fast::start(2);
    fast.ready(2).await;
    let (outcome, enforced) = fast.reload(vec![chat(2, "one", &fast.pool), named("news", "one", &fast)]).await;
    assert!(outcome.unwrap().contains("news: 2 workers are ready") && enforced);
    fast
}

#[tokio::test]
async fn an_app_that_fails_takes_the_others_back_with_it() {
    let fast = two().await;
    let before: Vec<_> = fast.control.status().apps[0].workers.iter().map(|worker| worker.pid).collect();
    let (outcome, enforced) = fast.reload(vec![chat(2, "two", &fast.pool), named("news", "broken", &fast)]).await;
    let why = outcome.unwrap_err();
    assert!(!enforced, "{why}");
    assert!(
        why.starts_with("news: generation 2 was given up, generation 1 goes on: slot 0: could not be started"),
        "{why}"
    );
    assert!(why.contains("chat: ") && why.contains("an app that was to change with it has failed"), "{why}");
    assert!(why.ends_with(NOT_IN_FORCE), "{why}");
    fast.runs("chat", "one").await;
    fast.runs("news", "one").await;
    let alarmed = fast.control.status().apps[0].workers.iter().filter(|w| before.contains(&w.pid)).count();
    assert!(alarmed > 0, "not all of its workers were replaced");
    fast.end().await;
}

#[tokio::test]
async fn an_app_that_has_rolled_already_rolls_back() {
    let fast = two().await;
    let (control, apps) = (fast.control.clone(), vec![chat(2, "two", &fast.pool), named("news", "late", &fast)]);
    let reload = tokio::spawn(async move { begin(&control, apps).await });
    fast.runs("chat", "two").await;
    fast.until("rolled", |status| status.apps[0].rolling.is_none()).await;
    fast.machine.fail_late_ones();
    let (outcome, enforced) = reload.await.unwrap();
    let why = outcome.unwrap_err();
    assert!(!enforced && why.starts_with("news: generation 2 was given up"), "{why}");
    assert!(why.contains("chat: generation 2 runs: 2 workers replaced"), "{why}");
    assert!(why.contains("chat: generation 3 runs: 2 workers replaced"), "{why}");
    assert!(why.contains("(as it was configured before: "), "{why}");
    assert_eq!(fast.arguments("chat"), ["one"; 2]);
    // As if nothing had been.
    let (outcome, enforced) = fast.reload(vec![chat(2, "one", &fast.pool), named("news", "one", &fast)]).await;
    let text = outcome.unwrap();
    assert!(enforced && text.contains("chat: unchanged") && text.contains("news: unchanged"), "{text}");
    fast.end().await;
}

#[tokio::test]
async fn apps_and_rules_of_a_file_that_fails_come_and_go_with_it() {
    let fast = two().await;
    // `chat` is left out, `news` gets more workers, `mail` is new, `post` fails.
    let more = || AppSpec {
        policy: Policy { instances: 3, ..named("news", "one", &fast).policy },
        ..named("news", "one", &fast)
    };
    let apps = vec![more(), named("mail", "one", &fast), named("post", "broken", &fast)];
    let (outcome, enforced) = fast.reload(apps).await;
    let why = outcome.unwrap_err();
    assert!(!enforced && why.starts_with("post: 0 of 2 workers are ready: slot "), "{why}");
    for line in [
        "chat: stays",
        "mail: is stopped again",
        "post: is stopped again",
        "news: its rules of before are in force again",
    ] {
        assert!(why.contains(line), "{line} is not in {why}");
    }
    fast.until("as before", |status| {
        status.apps.iter().map(|app| &*app.name).eq(["chat", "news"]) && status.apps.iter().all(|app| app.desired == 2)
    })
    .await;
    fast.runs("chat", "one").await;
    fast.runs("news", "one").await;
    // Without the one that fails: traffic is led away before the app that is left out stops.
    let (control, pool) = (fast.control.clone(), fast.pool.clone());
    let serving = Arc::new(AtomicBool::new(false));
    let seen = serving.clone();
    let enforce = Box::new(move || {
        let status = control.status();
        let chat = status.apps.iter().find(|app| &*app.name == "chat");
        seen.store(chat.is_some_and(|app| app.ready() == 2) && Arc::strong_count(&pool) > 0, Ordering::Relaxed);
    });
    let outcome = fast.control.reload(vec![more()], ReloadScope::Changed, None, enforce).await.unwrap();
    assert!(outcome.contains("chat: stops, it is not configured any more"), "{outcome}");
    assert!(serving.load(Ordering::Relaxed));
    fast.until("gone", |status| status.apps.len() == 1).await;
    fast.end().await;
}

#[tokio::test]
async fn a_newer_reload_that_fails_leads_back_to_what_was_before_both() {
    let fast = two().await;
    let (control, apps) = (fast.control.clone(), vec![chat(2, "two", &fast.pool), named("news", "late", &fast)]);
    let first = tokio::spawn(async move { begin(&control, apps).await });
    fast.runs("chat", "two").await;
    fast.until("rolled", |status| status.apps[0].rolling.is_none()).await;
    // A mistake takes the place of nothing.
    let (refused, enforced) = fast.reload(Vec::new()).await;
    assert!(!enforced && refused.unwrap_err().starts_with("nothing was changed"));
    let (second, enforced) = fast.reload(vec![chat(2, "two", &fast.pool), named("news", "broken", &fast)]).await;
    let why = second.unwrap_err();
    assert!(!enforced && why.starts_with("news: generation 3 was given up"), "{why}");
    let (first, enforced) = first.await.unwrap();
    assert!(!enforced && first.is_err(), "{first:?}");
    fast.machine.fail_late_ones();
    fast.runs("chat", "one").await;
    fast.runs("news", "one").await;
    fast.end().await;
}

#[tokio::test]
async fn of_two_reloads_the_newer_one_puts_its_file_into_force() {
    let fast = two().await;
    let apps = |news: &str| vec![chat(2, "one", &fast.pool), named("news", news, &fast)];
    let (control, late) = (fast.control.clone(), apps("late"));
    let first = tokio::spawn(async move { begin(&control, late).await });
    fast.until("begun", |status| status.apps[1].rolling.is_some()).await;
    let (second, enforced) = fast.reload(apps("three")).await;
    assert!(enforced && second.is_ok(), "{second:?}");
    let (first, enforced) = first.await.unwrap();
    assert!(!enforced && first.is_err(), "{first:?}");
    fast.machine.fail_late_ones();
    fast.runs("news", "three").await;
    fast.end().await;
}
