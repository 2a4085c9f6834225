use super::*;
use crate::worker::{Incarnation, Slot};
use std::collections::HashMap;
use std::time::Duration;

fn member(slot: u16, incarnation: u32, tag: Option<&str>) -> Arc<Member> {
    let id = WorkerId { app: "app".into(), slot: Slot(slot), incarnation: Incarnation(incarnation) };
    Arc::new(Member::new(id, tag.and_then(Tag::parse), format!("/run/app.{slot}.{incarnation}.sock").into()))
}

fn seat(member: &Arc<Member>, open: bool) -> Seat {
    Seat { member: member.clone(), open }
}

async fn pool(balance: Balance, seats: Vec<Seat>) -> Pool {
    let pool = Pool::new("app".into(), Affinity::SocketIo, balance, QueuePolicy::default());
    pool.publish(seats).await;
    pool
}

fn slot_of(lease: Option<Lease>) -> u16 {
    lease.unwrap().member().id.slot.0
}

#[tokio::test]
async fn a_tagged_sid_leads_to_its_worker_even_when_cordoned() {
    let (a, b) = (member(0, 1, Some("aaa")), member(1, 2, Some("bbb")));
    let pool = pool(Balance::LeastLoaded, vec![seat(&a, true), seat(&b, false)]).await;
    for _ in 0..10 {
        assert_eq!(
            slot_of(pool.select(Wanted::Sid { sid: b"12345678901234567bbb", path: b"/socket.io/" }, Use::Request, &[])),
            1
        );
        assert_eq!(slot_of(pool.select(Wanted::NewSession, Use::Request, &[])), 0);
        assert_eq!(slot_of(pool.select(Wanted::Any, Use::Request, &[])), 0);
    }
}

#[tokio::test]
async fn a_learnt_sid_beats_a_tag_that_it_ends_with_by_chance() {
    let (a, b) = (member(0, 1, Some("aaa")), member(1, 2, Some("bbb")));
    // Bundled: the preload script does not reach their Engine.IO, so their sids carry no tag.
    [&a, &b].iter().for_each(|member| member.engine.set_paths(Vec::new()));
    let pool = pool(Balance::LeastLoaded, vec![seat(&a, true), seat(&b, true)]).await;
    pool.learn(b"other-sid-aaa", &b);
    assert_eq!(slot_of(pool.select(Wanted::Sid { sid: b"other-sid-aaa", path: b"/socket.io/" }, Use::Request, &[])), 1);
    // A sid that names its worker needs no memory.
    pool.learn(b"own-sid-bbb", &b);
    assert_eq!(pool.learnt.len(), 1);
}

#[tokio::test]
async fn nobody_learns_over_a_living_tag() {
    let (a, b) = (member(0, 1, Some("aaa")), member(1, 2, Some("bbb")));
    a.engine.set_paths(vec!["/socket.io/".into()]);
    let pool = pool(Balance::LeastLoaded, vec![seat(&a, true), seat(&b, true)]).await;
    // A page of `b` shows a text of its client's.
    pool.learn(b"known-sid-aaa", &b);
    assert_eq!(slot_of(pool.select(sid(b"known-sid-aaa"), Use::Parked, &[])), 0);
    assert!(pool.learnt.is_empty());
}

/// How many requests with a made-up sid a worker that is full gets at once.
async fn made_up(worker: &Arc<Member>) -> usize {
    let settings = QueuePolicy { max_concurrency: Some(1), ..QueuePolicy::default() };
    let pool = Pool::new("app".into(), Affinity::SocketIo, Balance::LeastLoaded, settings);
    pool.publish(vec![seat(worker, true)]).await;
    let _full = pool.select(Wanted::Any, Use::Request, &[]).unwrap();
    let page = || pool.select(Wanted::Sid { sid: b"made-up-aaa", path: b"/page" }, Use::Parked, &[]);
    let leases: Vec<_> = std::iter::from_fn(page).take(1000).collect();
    leases.len()
}

#[tokio::test]
async fn an_older_preload_script_is_believed_everywhere_for_as_many_sessions_as_it_says() {
    let worker = member(0, 1, Some("aaa"));
    assert_eq!(made_up(&worker).await, 1000, "it has said nothing yet");
    worker.engine.set_sessions(10);
    let most = made_up(&worker).await;
    assert!((90..120).contains(&most), "{most}");
    worker.engine.set_paths(vec!["/socket.io/".into()]);
    assert_eq!(made_up(&worker).await, 0);
}

#[tokio::test]
async fn a_made_up_sid_has_no_privileges() {
    let settings = QueuePolicy { max_concurrency: Some(2), ..QueuePolicy::default() };
    let pool = Pool::new("app".into(), Affinity::SocketIo, Balance::LeastLoaded, settings);
    let worker = member(0, 1, Some("aaa"));
    worker.engine.set_paths(vec!["/socket.io/".into()]);
    worker.engine.set_sessions(1);
    pool.publish(vec![seat(&worker, true)]).await;
    // On another path it is a request like any other, and counts as one.
    let page = || pool.select(Wanted::Sid { sid: b"made-up-aaa", path: b"/page" }, Use::Parked, &[]);
    let held = [page().unwrap(), page().unwrap()];
    assert!(page().is_none());
    assert_eq!(worker.load.active.load(Ordering::Relaxed), 2);
    // On Engine.IO's path it passes, but only as often as the worker has sessions for.
    let polls: Vec<_> = std::iter::from_fn(|| pool.select(sid(b"made-up-aaa"), Use::Parked, &[])).take(1000).collect();
    assert!((60..80).contains(&polls.len()), "{}", polls.len());
    drop((held, polls));
    assert_eq!(worker.load.parked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn silence_keeps_new_requests_away() {
    let (a, b) = (member(0, 1, None), member(1, 2, None));
    for balance in [Balance::LeastLoaded, Balance::RoundRobin] {
        let pool = pool(balance, vec![seat(&a, true), seat(&b, true)]).await;
        a.silence.set(true);
        assert!((0..10).all(|_| slot_of(pool.select(Wanted::Any, Use::Request, &[])) == 1));
        // Better a silent one than none.
        b.silence.set(true);
        assert!(pool.select(Wanted::Any, Use::Request, &[]).is_some());
        [&a, &b].iter().for_each(|member| member.silence.set(false));
    }
}

fn sid(sid: &[u8]) -> Wanted<'_> {
    Wanted::Sid { sid, path: b"/socket.io/" }
}

#[tokio::test]
async fn a_sid_nobody_owns_always_goes_to_the_same_open_worker() {
    let members: Vec<_> = (0..4).map(|n| member(n, u32::from(n), None)).collect();
    let mut seats: Vec<_> = members.iter().map(|m| seat(m, true)).collect();
    let pool = pool(Balance::LeastLoaded, seats.clone()).await;
    let sids: Vec<String> = (0..200).map(|n| format!("sid-{n}")).collect();
    let pick = |sid: &String| {
        slot_of(pool.select(Wanted::Sid { sid: sid.as_bytes(), path: b"/socket.io/" }, Use::Request, &[]))
    };
    let before: HashMap<_, _> = sids.iter().map(|sid| (sid.clone(), pick(sid))).collect();
    assert!(sids.iter().all(|sid| pick(sid) == before[sid]));
    assert!((0..4).all(|slot| before.values().any(|s| *s == slot)), "every worker gets some");

    // The process that takes a crashed worker's seat takes its keys.
    seats[2] = seat(&member(2, 99, None), true);
    pool.publish(seats).await;
    assert!(sids.iter().all(|sid| pick(sid) == before[sid]));
}

#[tokio::test]
async fn a_dead_owner_is_no_owner() {
    let (a, b) = (member(0, 1, Some("aaa")), member(1, 2, Some("bbb")));
    let pool = pool(Balance::LeastLoaded, vec![seat(&a, true), seat(&b, true)]).await;
    pool.learn(b"learnt", &b);
    pool.publish(vec![seat(&a, true)]).await;
    assert_eq!(slot_of(pool.select(Wanted::Sid { sid: b"learnt", path: b"/socket.io/" }, Use::Request, &[])), 0);
    assert_eq!(slot_of(pool.select(Wanted::Sid { sid: b"xxxbbb", path: b"/socket.io/" }, Use::Request, &[])), 0);
    // Tried and found dead before the supervisor noticed.
    assert!(pool.select(Wanted::Sid { sid: b"xxxaaa", path: b"/socket.io/" }, Use::Request, &[a]).is_none());
}

#[tokio::test]
async fn least_loaded_counts_leases_until_they_end() {
    let members: Vec<_> = (0..3).map(|n| member(n, u32::from(n), None)).collect();
    let pool = pool(Balance::LeastLoaded, members.iter().map(|m| seat(m, true)).collect()).await;
    let mut leases: Vec<_> = (0..9).map(|_| pool.select(Wanted::Any, Use::Request, &[]).unwrap()).collect();
    assert!(members.iter().all(|m| m.load.active.load(Ordering::Relaxed) == 3));
    leases.retain(|lease| lease.member().id.slot.0 != 1);
    for _ in 0..3 {
        leases.push(pool.select(Wanted::Any, Use::Request, &[]).unwrap());
    }
    assert!(members.iter().all(|m| m.load.active.load(Ordering::Relaxed) == 3));
    drop(leases);
    assert!(members.iter().all(|m| m.load.active.load(Ordering::Relaxed) == 0));
}

#[tokio::test]
async fn parked_sessions_steer_new_sessions_but_hardly_plain_requests() {
    let (a, b) = (member(0, 1, None), member(1, 2, None));
    let pool = pool(Balance::LeastLoaded, vec![seat(&a, true), seat(&b, true)]).await;
    let _tunnels: Vec<_> = (0..100).map(|_| Lease::new(a.clone(), Use::Parked, None)).collect();
    assert_eq!(slot_of(pool.select(Wanted::NewSession, Use::Request, &[])), 1);
    let _busy = Lease::new(b.clone(), Use::Request, None);
    assert_eq!(slot_of(pool.select(Wanted::Any, Use::Request, &[])), 0);
}

#[tokio::test]
async fn round_robin_goes_around() {
    let members: Vec<_> = (0..3).map(|n| member(n, u32::from(n), None)).collect();
    let pool = pool(Balance::RoundRobin, members.iter().map(|m| seat(m, true)).collect()).await;
    let slots: Vec<u16> = (0..6).map(|_| slot_of(pool.select(Wanted::Any, Use::Request, &[]))).collect();
    assert_eq!(slots, [0, 1, 2, 0, 1, 2]);
}

#[tokio::test]
async fn an_empty_pool_gives_nothing() {
    let pool = pool(Balance::LeastLoaded, vec![]).await;
    for wanted in [Wanted::Any, Wanted::NewSession, Wanted::Sid { sid: b"x", path: b"/socket.io/" }, Wanted::Key(b"y")]
    {
        assert!(pool.select(wanted, Use::Request, &[]).is_none());
    }
}

#[tokio::test]
async fn a_full_worker_takes_only_what_is_its_own() {
    let policy = QueuePolicy { max_concurrency: Some(2), ..QueuePolicy::default() };
    let pool = Pool::new("app".into(), Affinity::SocketIo, Balance::LeastLoaded, policy);
    pool.publish(vec![seat(&member(0, 1, Some("aaa")), true)]).await;
    let one = pool.select(Wanted::Any, Use::Request, &[]).unwrap();
    let _two = pool.select(Wanted::Any, Use::Request, &[]).unwrap();
    assert!(pool.select(Wanted::Any, Use::Request, &[]).is_none());
    // Neither a session's own requests nor parked ones are held back.
    assert!(pool.select(Wanted::Sid { sid: b"xxxaaa", path: b"/socket.io/" }, Use::Request, &[]).is_some());
    assert!(pool.select(Wanted::NewSession, Use::Parked, &[]).is_some());
    drop(one);
    assert!(pool.select(Wanted::Any, Use::Request, &[]).is_some());
}

async fn pool_of_rooms(seats: Vec<Seat>, policy: QueuePolicy) -> Pool {
    let pool = Pool::new("app".into(), Affinity::Path(1), Balance::LeastLoaded, policy);
    pool.publish(seats).await;
    pool
}

fn room(n: u32) -> Wanted<'static> {
    Wanted::Room(Room::named(n.to_be_bytes().into_iter()))
}

#[tokio::test]
async fn tunnels_of_rooms_that_moved_are_asked_to_close_and_no_others() {
    let (a, b, c) = (member(0, 1, None), member(1, 2, None), member(2, 3, None));
    let pool = pool_of_rooms(vec![seat(&a, true), seat(&b, true)], QueuePolicy::default()).await;
    let leases: Vec<Lease> = (0..60).map(|n| pool.select(room(n), Use::Request, &[]).unwrap()).collect();
    let enter = |lease: &Lease| lease.member().tunnels.enter(std::task::Waker::noop().clone(), lease.room());
    let keys: Vec<usize> = leases.iter().map(enter).collect();
    pool.publish(vec![seat(&a, true), seat(&b, true), seat(&c, true)]).await;
    let mut moved = 0;
    for (n, (lease, key)) in leases.iter().zip(&keys).enumerate() {
        let to = slot_of(pool.select(room(n as u32), Use::Request, &[]));
        let asked = lease.member().tunnels.asked(*key);
        assert_eq!(asked.is_some(), to != lease.member().id.slot.0, "room {n}");
        assert!(asked.is_none_or(|closing| closing.code == 1012 && to == 2));
        moved += u32::from(asked.is_some());
    }
    assert!((10..30).contains(&moved), "{moved} of 60 moved");
    // What opened while the workers changed may be at the wrong one.
    let late = enter(&leases[0]);
    assert!(leases[0].member().tunnels.asked(late).is_some());
}

#[tokio::test]
async fn a_room_waits_for_its_worker_and_goes_elsewhere_only_when_that_is_gone() {
    let (a, b) = (member(0, 1, None), member(1, 2, None));
    let policy = QueuePolicy { max_concurrency: Some(1), ..QueuePolicy::default() };
    let pool = pool_of_rooms(vec![seat(&a, true), seat(&b, true)], policy).await;
    let first = pool.select(room(1), Use::Request, &[]).unwrap();
    assert!(pool.select(room(1), Use::Request, &[]).is_none());
    let host = first.member().clone();
    let other = pool.select(room(1), Use::Request, std::slice::from_ref(&host)).unwrap();
    assert_ne!(other.member().id, host.id);
    drop((first, other));
    assert_eq!(pool.select(room(1), Use::Request, &[]).unwrap().member().id, host.id);
}

#[test]
fn a_drain_wakes_every_tunnel() {
    let tunnels = Tunnels::default();
    let key = tunnels.enter(std::task::Waker::noop().clone(), None);
    assert_eq!((tunnels.open(), tunnels.asked(key)), (1, None));
    let closing = Closing { code: 1012, window: Duration::from_secs(10) };
    tunnels.close(closing);
    assert_eq!(tunnels.asked(key), Some(closing));
    tunnels.leave(key);
    tunnels.leave(key);
    assert_eq!(tunnels.open(), 0);
}
