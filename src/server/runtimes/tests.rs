use super::*;
use std::sync::mpsc as blocking;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);

fn two() -> Homes {
    let homes =
        Homes::Own(Runtimes::new(Settings { threads: 2, max_blocking_threads: None, blocking_thread_ttl: None }));
    homes.start().unwrap();
    homes
}

fn own(homes: &Homes) -> &Runtimes {
    let Homes::Own(runtimes) = homes else { panic!("made so") };
    runtimes
}

fn here() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

/// Where a job that says so at once has run.
async fn place_one(homes: &Homes, client: Option<IpAddr>) -> String {
    let (say, said) = oneshot::channel();
    homes.place(client, Box::pin(async move { drop(say.send(here())) }));
    timeout(LONG, said).await.unwrap().unwrap()
}

/// Holds one thread up until what comes with its name is dropped.
async fn hold_one(homes: &Homes) -> (String, blocking::Sender<()>) {
    let (release, released) = blocking::channel();
    let (say, said) = oneshot::channel();
    let held = async move {
        let _ = say.send(here());
        let _ = released.recv();
    };
    homes.place(None, Box::pin(held));
    (timeout(LONG, said).await.unwrap().unwrap(), release)
}

#[tokio::test]
async fn what_is_placed_together_begins_in_its_order() {
    let homes = two();
    let (say, mut said) = mpsc::unbounded_channel();
    let client = Some("192.0.2.1".parse().unwrap());
    let first = place_one(&homes, client).await;
    for n in 0..500 {
        let say = say.clone();
        homes.place(client, Box::pin(async move { say.send((here(), n)).unwrap() }));
    }
    let mut of_thread = std::collections::BTreeMap::<String, Vec<u32>>::new();
    for _ in 0..500 {
        let (thread, n) = timeout(LONG, said.recv()).await.unwrap().unwrap();
        of_thread.entry(thread).or_default().push(n);
    }
    assert!(of_thread.keys().all(|name| name.starts_with("front-")), "{of_thread:?}");
    assert!(of_thread.values().all(|order| order.is_sorted()), "{of_thread:?}");
    assert_eq!(place_one(&homes, client).await, first);
    homes.end(LONG);
}

#[tokio::test]
async fn a_thread_that_is_held_up_is_passed_over() {
    let homes = two();
    let (say, mut said) = mpsc::unbounded_channel();
    let (held, release) = hold_one(&homes).await;
    // Half of them are placed there before it is known.
    for _ in 0..20 {
        let say = say.clone();
        homes.place(None, Box::pin(async move { say.send(here()).unwrap() }));
    }
    for _ in 0..20 {
        assert_ne!(timeout(LONG, said.recv()).await.unwrap().unwrap(), held);
    }
    timeout(LONG, homes.begun()).await.unwrap();
    for _ in 0..20 {
        assert_ne!(place_one(&homes, None).await, held);
    }
    drop(release);
    timeout(LONG, async { while place_one(&homes, None).await != held {} }).await.unwrap();
    homes.end(LONG);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_is_held_up_for_long_gets_its_share_back() {
    let homes = two();
    let (say, mut said) = mpsc::unbounded_channel();
    let (held, release) = hold_one(&homes).await;
    // More than one thread is given alone: each stays where it has begun.
    for _ in 0..300 {
        let say = say.clone();
        let stay = async move {
            say.send(here()).unwrap();
            std::future::pending::<()>().await;
        };
        homes.place(None, Box::pin(stay));
    }
    // The other begins its part and is never kept from more.
    for _ in 0..64 {
        assert_ne!(timeout(LONG, said.recv()).await.unwrap().unwrap(), held);
    }
    let waits = || own(&homes).lanes().iter().any(|lane| lane.inbox.len() > 0);
    for _ in 0..20 {
        assert!(waits());
        sleep(CHECK_INTERVAL).await;
    }
    drop(release);
    for _ in 64..300 {
        timeout(LONG, said.recv()).await.unwrap().unwrap();
    }
    timeout(LONG, homes.begun()).await.unwrap();
    homes.end(LONG);
}

#[tokio::test]
async fn what_is_dealt_counts_at_once() {
    let homes = two();
    let parts = homes.deal((0..10).collect(), |_| None);
    assert_eq!(parts.iter().map(|part| part.things.len()).collect::<Vec<_>>(), [5, 5]);
    let mut parts = parts.into_iter();
    let (_home, _things, promise) = parts.next().unwrap().open();
    drop(parts);
    let open: Vec<usize> = own(&homes).loads().iter().map(|load| load.open).collect();
    assert_eq!(open, [5, 0]);
    drop(promise);
    assert_eq!(own(&homes).loads()[0].open, 0);
    homes.end(LONG);
}

#[tokio::test]
async fn the_end_drops_what_is_served() {
    let homes = two();
    let (open, mut ended) = oneshot::channel::<()>();
    let forever = async move {
        let _open = open;
        std::future::pending::<()>().await;
    };
    homes.place(None, Box::pin(forever));
    timeout(LONG, homes.begun()).await.unwrap();
    assert!(ended.try_recv().is_err());
    homes.end(LONG);
    assert!(timeout(LONG, ended).await.unwrap().is_err());
}
