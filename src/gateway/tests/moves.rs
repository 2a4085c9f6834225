//! Connections that go over to another process, by transfers.

use super::phases::{GET, LAST, OK, answer, get, says_close};
use super::*;
use crate::gateway::Phase;
use crate::gateway::migration::format::Contents;
use crate::process::ConnectionTransfer;
use tokio::sync::mpsc;

/// Two fronts: the first gives, the second takes.
struct Pair {
    old: Rig,
    new: Rig,
    workers: Workers,
}

impl Pair {
    async fn new() -> Pair {
        let workers = Workers::new();
        Pair { old: Rig::new(&workers).await, new: Rig::new(&workers).await, workers }
    }

    /// From now on the second takes what the first gives. Counts the transfers.
    fn hand_over(&self) -> Arc<AtomicU32> {
        let (transfers, mut arriving) = mpsc::channel::<ConnectionTransfer>(1);
        self.old.front.set_phase(Phase::Migrating(transfers));
        let (front, taken) = (self.new.front.clone(), Arc::new(AtomicU32::new(0)));
        let count = taken.clone();
        tokio::spawn(async move {
            while let Some(parcel) = arriving.recv().await {
                front.adopt(&parcel.bytes, parcel.fds, |_| None).unwrap().activate();
                count.fetch_add(1, Ordering::Release);
            }
        });
        taken
    }

    async fn emptied(&self) {
        tokio::time::timeout(LONG, self.old.front.emptied()).await.expect("the old one is empty in time");
    }
}

#[tokio::test]
async fn idle_connections_and_half_a_head_go_over() {
    let pair = Pair::new().await;
    let mut idle = pair.old.client().await;
    get(&mut idle, &pair.workers).await;
    let (mut silent, mut begun) = (pair.old.client().await, pair.old.client().await);
    begun.write_all(&GET.as_bytes()[..7]).await.unwrap();
    let taken = pair.hand_over();
    pair.emptied().await;
    until("three transfers", || taken.load(Ordering::Acquire) == 3).await;
    assert_eq!(pair.new.open(), 3);
    assert!(!says_close(&get(&mut idle, &pair.workers).await));
    assert!(!says_close(&get(&mut silent, &pair.workers).await));
    begun.write_all(&GET.as_bytes()[7..]).await.unwrap();
    pair.workers.accept().await.write_all(LAST.as_bytes()).await.unwrap();
    assert!(!says_close(&answer(&mut begun).await));
    // And one that comes late.
    assert!(!says_close(&get(&mut pair.old.client().await, &pair.workers).await));
    drop((idle, silent, begun));
    tokio::time::timeout(LONG, pair.new.front.emptied()).await.unwrap();
}

#[tokio::test]
async fn a_request_is_answered_first_and_what_is_pipelined_goes_along() {
    let pair = Pair::new().await;
    let mut client = pair.old.client().await;
    client.write_all([GET, GET, &GET[..5]].concat().as_bytes()).await.unwrap();
    let mut worker = pair.workers.accept().await;
    let taken = pair.hand_over();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!((taken.load(Ordering::Acquire), pair.old.open()), (0, 1));
    worker.write_all(OK.as_bytes()).await.unwrap();
    assert!(!says_close(&answer(&mut client).await));
    let mut worker = pair.workers.accept().await;
    pair.emptied().await;
    assert_eq!((taken.load(Ordering::Acquire), pair.new.open()), (1, 1));
    worker.write_all(OK.as_bytes()).await.unwrap();
    assert!(!says_close(&answer(&mut client).await));
    // A connection to a worker rests a moment before it is used again.
    tokio::time::sleep(Duration::from_millis(5)).await;
    client.write_all(&GET.as_bytes()[5..]).await.unwrap();
    let read = read_head(&mut worker).await;
    assert!(read.starts_with("GET / HTTP/1.1\r\n"), "{read}");
    worker.write_all(OK.as_bytes()).await.unwrap();
    answer(&mut client).await;
}

#[tokio::test]
async fn tunnels_go_over_early_and_late() {
    let pair = Pair::new().await;
    let (mut early, mut early_worker) = pair.old.tunnel(&pair.workers).await;
    let mut late = pair.old.client().await;
    late.write_all(UPGRADE.as_bytes()).await.unwrap();
    let mut late_worker = pair.workers.accept().await;
    let frozen = pair.old.front.pause_tunnels(LONG, true).await;
    let taken = pair.hand_over();
    frozen.into_iter().for_each(|tunnel| tunnel.resume());
    late_worker.write_all(SWITCHING.as_bytes()).await.unwrap();
    assert!(read_head(&mut late).await.starts_with("HTTP/1.1 101"));
    for (client, worker) in [(&mut early, &mut early_worker), (&mut late, &mut late_worker)] {
        client.write_all(b"\x82\x01a").await.unwrap();
        let mut frame = [0; 3];
        worker.read_exact(&mut frame).await.unwrap();
        assert_eq!(&frame, b"\x82\x01a");
    }
    pair.emptied().await;
    until("two transfers", || taken.load(Ordering::Acquire) == 2).await;
    assert_eq!((pair.new.open(), pair.new.member.tunnels.open()), (2, 2));
}

#[tokio::test]
async fn what_nobody_takes_ends_here() {
    let pair = Pair::new().await;
    let (mut client, mut worker) = pair.old.tunnel(&pair.workers).await;
    let (mut idle, mut begun) = (pair.old.client().await, pair.old.client().await);
    let mut busy = pair.old.client().await;
    get(&mut idle, &pair.workers).await;
    get(&mut busy, &pair.workers).await;
    begun.write_all(&GET.as_bytes()[..7]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (transfers, receiver) = mpsc::channel(1);
    drop(receiver);
    pair.old.front.set_phase(Phase::Migrating(transfers));
    tokio::time::sleep(Duration::from_millis(20)).await;
    // Its next request may be on its way: the answer says that it is the last.
    busy.write_all(GET.as_bytes()).await.unwrap();
    let mut answered = pair.workers.accept().await;
    answered.write_all(OK.as_bytes()).await.unwrap();
    assert!(says_close(&answer(&mut busy).await));
    drop(busy);
    pair.old.front.end_what_stays();
    assert_eq!(rest(&mut idle).await, b"");
    begun.write_all(&GET.as_bytes()[7..]).await.unwrap();
    let mut last = pair.workers.accept().await;
    last.write_all(OK.as_bytes()).await.unwrap();
    assert!(says_close(&answer(&mut begun).await));
    drop(begun);
    for n in 0..10 {
        client.write_u8(n).await.unwrap();
        assert_eq!(worker.read_u8().await.unwrap(), n);
    }
    until("only the tunnel", || pair.old.open() == 1).await;
}

#[tokio::test]
async fn a_slow_successor_makes_transfers_wait() {
    let pair = Pair::new().await;
    let (transfers, mut arriving) = mpsc::channel::<ConnectionTransfer>(1);
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(pair.old.client().await);
    }
    until("ten connections", || pair.old.open() == 10).await;
    pair.old.front.set_phase(Phase::Migrating(transfers));
    for n in 0..10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(pair.old.open() >= 9 - n, "one waits in the channel, the others with their tasks");
        let parcel = arriving.recv().await.unwrap();
        pair.new.front.adopt(&parcel.bytes, parcel.fds, |_| None).unwrap().activate();
    }
    pair.emptied().await;
    for client in &mut clients {
        get(client, &pair.workers).await;
    }
}

/// Whoever waits for something in the one process waits for the rest of the time in the other.
#[tokio::test]
async fn a_move_makes_no_wait_longer() {
    let pair = Pair::new().await;
    let (mut idle, mut begun) = (pair.old.client().await, pair.old.client().await);
    begun.write_all(&GET.as_bytes()[..7]).await.unwrap();
    let (mut client, _worker) = pair.old.tunnel(&pair.workers).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (transfers, mut arriving) = mpsc::channel::<ConnectionTransfer>(1);
    pair.old.front.set_phase(Phase::Migrating(transfers));
    for _ in 0..3 {
        let ConnectionTransfer { bytes, fds } = arriving.recv().await.unwrap();
        let (mut contents, behind) = Contents::unpack(&bytes).unwrap();
        let left = match &mut contents {
            Contents::Connection(said) => &mut said.left_ms,
            Contents::Tunnel(said) => &mut said.left_ms,
        };
        // As if more had passed.
        let before = left.replace(50).unwrap();
        assert!(before < LONG.as_millis() as u64, "{before} of {LONG:?}");
        pair.new.front.adopt(&contents.pack(&[behind]).unwrap(), fds, |_| None).unwrap().activate();
    }
    let ends = async {
        assert_eq!(rest(&mut idle).await, b"");
        assert_eq!(rest(&mut client).await, b"");
        assert!(rest(&mut begun).await.starts_with(b"HTTP/1.1 408 "));
    };
    tokio::time::timeout(LONG / 3, ends).await.expect("they end when they would have");
}

/// What begins like HTTP/2 is not known for what it is before it has gone over.
#[tokio::test]
async fn half_a_preface_goes_over() {
    let pair = Pair::new().await;
    let front = Arc::new(pair.old.front.at(h2c_listener()));
    let mut client = pair.old.client_of(&front).await;
    client.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    pair.hand_over();
    pair.emptied().await;
    client.write_all(b"\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    assert_eq!(phases::frame(&mut client).await, 4, "SETTINGS");
}
