//! Tunnels that stop, move and go on, while both ends talk.

use super::*;
use crate::gateway::{Adopted, Paused};
use crate::pool::Closing;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

/// The `n`th message of a sender: numbered, of any length, all of it determined by seed and number.
fn message(seed: u64, n: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let length = match random.u32(..10) {
        0 => random.usize(60_000..80_000),
        1..=3 => random.usize(100..5_000),
        _ => random.usize(..130),
    };
    let mut payload = n.to_be_bytes().to_vec();
    payload.extend(std::iter::repeat_with(|| random.u8(..)).take(length));
    payload
}

fn frame(payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![0x82];
    match payload.len() {
        short @ ..126 => frame.push(masked | short as u8),
        medium @ ..65_536 => {
            frame.push(masked | 126);
            frame.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            frame.push(masked | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask.unwrap_or_default()[..if mask.is_some() { 4 } else { 0 }]);
    let key = mask.unwrap_or_default();
    frame.extend(payload.iter().enumerate().map(|(i, b)| b ^ key[i % 4]));
    frame
}

/// Sends `count` frames in pieces of any size, then ends its direction.
async fn send(mut to: impl AsyncWrite + Unpin, seed: u64, count: u64, masked: bool) {
    let mut random = fastrand::Rng::with_seed(seed);
    for n in 0..count {
        let mask = masked.then(|| random.u32(..).to_ne_bytes());
        let frame = frame(&message(seed, n), mask);
        let mut left = &frame[..];
        while !left.is_empty() {
            let (piece, rest) = left.split_at(random.usize(1..=left.len()));
            to.write_all(piece).await.unwrap();
            left = rest;
            match random.u32(..8) {
                0 => tokio::time::sleep(Duration::from_micros(random.u64(..2_000))).await,
                1 => tokio::task::yield_now().await,
                _ => {}
            }
        }
    }
    to.shutdown().await.unwrap();
}

/// Receives what [`send`] sends, at a pace of its own, and the end behind it.
async fn receive(mut from: impl AsyncRead + Unpin, seed: u64, count: u64, masked: bool, slow: bool) {
    let mut random = fastrand::Rng::with_seed(!seed);
    let (mut bytes, mut at, mut buf) = (Vec::new(), 0, vec![0; 20_000]);
    for n in 0..count {
        // As the mask is not known beforehand, the frame is read for what it says.
        let payload = loop {
            if let Some((payload, len)) = parse(&bytes[at..], masked) {
                at += len;
                break payload;
            }
            bytes.drain(..std::mem::take(&mut at));
            if slow && random.u32(..6) == 0 {
                tokio::time::sleep(Duration::from_micros(random.u64(..4_000))).await;
            }
            let most = if slow { random.usize(1..2_000) } else { buf.len() };
            let read = tokio::time::timeout(LONG, from.read(&mut buf[..most])).await.expect("bytes come").unwrap();
            assert!(read > 0, "the stream ends at message {n} of {count}, within {} bytes", bytes.len());
            bytes.extend_from_slice(&buf[..read]);
        };
        assert!(payload == message(seed, n), "message {n} is not what was sent");
    }
    assert_eq!((&bytes[at..], rest(&mut from).await.len()), (&[][..], 0), "more came than was sent");
}

fn parse(bytes: &[u8], masked: bool) -> Option<(Vec<u8>, usize)> {
    assert!(bytes.first().is_none_or(|first| *first == 0x82), "not where a frame begins");
    let short = bytes.get(1)?;
    assert_eq!(short & 0x80 != 0, masked);
    let (length, mut at) = match short & 0x7f {
        126 => (u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()) as usize, 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize, 10),
        short => (short as usize, 2),
    };
    let key: [u8; 4] = if masked { bytes.get(at..at + 4)?.try_into().unwrap() } else { [0; 4] };
    at += if masked { 4 } else { 0 };
    let payload = bytes.get(at..at + length)?;
    Some((payload.iter().enumerate().map(|(i, b)| b ^ key[i % 4]).collect(), at + length))
}

/// As the handoff does it: bytes and descriptors go over, what is here is dropped. Gives the bytes.
fn carry(frozen: Box<dyn Paused>, to: &ProxyService) -> Zeroizing<Vec<u8>> {
    let (bytes, fds) = frozen.to_transfer();
    let fds: Vec<OwnedFd> = fds.iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
    drop(frozen);
    to.adopt(&bytes, fds, |_| None).unwrap().activate();
    bytes
}

/// The handoff holds them across threads.
const fn threads<T: Send + Sync>() {}
const _: () = threads::<Box<dyn Paused>>();

fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    seed
}

async fn storm(seed: u64, tunnels: u64, count: u64, tls: bool) {
    let workers = Workers::new();
    let rigs = [Rig::new(&workers).await, Rig::new(&workers).await];
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ends = tokio::task::JoinSet::new();
    for n in 0..tunnels {
        let (from_client, to_client, worker): (
            Box<dyn AsyncRead + Unpin + Send>,
            Box<dyn AsyncWrite + Unpin + Send>,
            _,
        );
        if tls {
            let (client, its) = rigs[0].tls_tunnel(&workers).await;
            let halves = tokio::io::split(client);
            (from_client, to_client, worker) = (Box::new(halves.0), Box::new(halves.1), its);
        } else {
            let (client, its) = rigs[0].tunnel(&workers).await;
            let halves = client.into_split();
            (from_client, to_client, worker) = (Box::new(halves.0), Box::new(halves.1), its);
        }
        let (from_worker, to_worker) = worker.into_split();
        let (up, down) = (seed.wrapping_add(n), !seed.wrapping_sub(n));
        let (slow_up, slow_down) = (random.bool(), random.bool());
        // One direction often ends long before the other.
        let (ups, downs) = (random.u64(..=count), random.u64(..=count));
        ends.spawn(send(to_client, up, ups, true));
        ends.spawn(receive(from_worker, up, ups, true, slow_up));
        ends.spawn(send(to_worker, down, downs, false));
        ends.spawn(receive(from_client, down, downs, false, slow_down));
    }
    let (mut moved, mut waiting, mut half, mut at) = (0, 0, 0, 0);
    loop {
        let pause = Duration::from_micros(random.u64(..3_000));
        tokio::select! {
            biased;
            end = ends.join_next() => match end {
                Some(end) => end.unwrap(),
                None => break,
            },
            () = tokio::time::sleep(pause) => {
                let frozen = rigs[at].front.pause_tunnels(LONG, true).await;
                let next = &rigs[1 - at].front;
                for tunnel in frozen {
                    if random.u32(..4) == 0 {
                        tunnel.resume();
                    } else {
                        let bytes = carry(tunnel, next);
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        moved += 1;
                        waiting += u64::from(text.matches("\"waiting\":0,").count() < 2);
                        half += u64::from(text.matches("\"state\":\"open\"").count() == 1);
                    }
                }
                at = 1 - at;
            }
        }
    }
    println!("{moved} moves of {tunnels} tunnels: {waiting} with bytes that wait, {half} half-closed");
    assert!(moved > tunnels && waiting > 0 && half > 0);
    for rig in &rigs {
        tokio::time::timeout(LONG, rig.front.emptied()).await.expect("nothing stays open");
        assert_eq!((rig.member.tunnels.open(), rig.member.load.parked.load(Ordering::Relaxed)), (0, 0));
    }
}

#[tokio::test]
async fn tunnels_that_move_lose_nothing() {
    storm(seed(), 16, 120, false).await;
}

#[tokio::test]
async fn tls_tunnels_that_move_lose_nothing() {
    storm(seed(), 16, 120, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tls_tunnels_that_move_lose_nothing_among_threads() {
    storm(seed(), 16, 120, true).await;
}

/// The key is known to one process at a time; what is not taken over says no word of it.
#[tokio::test]
async fn a_tls_tunnel_stays_where_the_successor_does_not_know_them() {
    let workers = Workers::new();
    let rig = Rig::new(&workers).await;
    let (mut client, mut worker) = rig.tls_tunnel(&workers).await;
    let (_plain, _its_worker) = rig.tunnel(&workers).await;
    until("the tunnels", || rig.member.tunnels.open() == 2).await;
    let frozen = rig.front.pause_tunnels(LONG, false).await;
    assert_eq!(frozen.len(), 1, "the plain one alone");
    worker.write_all(b"goes on").await.unwrap();
    let mut heard = [0; 7];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"goes on");
}

#[tokio::test]
async fn a_wrong_state_of_tls_is_refused_by_name_and_not_quoted() {
    let workers = Workers::new();
    let (old, new) = (Rig::new(&workers).await, Rig::new(&workers).await);
    let (_client, _worker) = old.tls_tunnel(&workers).await;
    until("the tunnel", || old.member.tunnels.open() == 1).await;
    let tunnel = old.front.pause_tunnels(LONG, true).await.pop().unwrap();
    let (bytes, fds) = tunnel.to_transfer();
    let fds = || -> Vec<OwnedFd> { fds.iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect() };
    let refused = |bytes: &[u8]| new.front.adopt(bytes, fds(), |_| None).map(Adopted::activate).unwrap_err();
    assert_eq!(refused(&bytes[..bytes.len() - 1]), "its state of TLS is cut off");
    assert_eq!(refused(&[&bytes[..], b"x"].concat()), "the TLS state has version 19, not 1", "it begins too late");
    let head = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    assert_eq!(refused(&bytes[..4 + head]), "its state of TLS is cut off");
    let mut random = fastrand::Rng::with_seed(seed());
    for _ in 0..2_000 {
        let mut bytes = bytes.clone();
        let at = random.usize(4 + head..bytes.len());
        bytes[at] = random.u8(..);
        let _ = new.front.adopt(&bytes, fds(), |_| None).map(Adopted::activate);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tunnels_that_move_lose_nothing_among_threads() {
    storm(seed(), 16, 120, false).await;
}

#[tokio::test]
async fn a_frozen_tunnel_stands_still_and_counts() {
    let workers = Workers::new();
    let rig = Rig::new(&workers).await;
    let (mut client, mut worker) = rig.tunnel(&workers).await;
    until("the tunnel", || rig.member.tunnels.open() == 1).await;
    let mut frozen = rig.front.pause_tunnels(LONG, true).await;
    assert_eq!((frozen.len(), rig.open(), rig.member.tunnels.open()), (1, 1, 1));
    client.write_all(b"later").await.unwrap();
    let silence = tokio::time::timeout(Duration::from_millis(50), worker.read_u8()).await;
    assert!(silence.is_err(), "nothing passes");
    // A drain that is asked for meanwhile is not forgotten.
    rig.member.tunnels.close(Closing { code: 1001, window: Duration::ZERO });
    frozen.pop().unwrap().resume();
    let close = rest(&mut client).await;
    assert_eq!(&close[..4], &[0x88, 2, 0x03, 0xe9]);
    drop((client, worker));
    rig.front.emptied().await;
    assert_eq!((rig.member.tunnels.open(), rig.member.load.parked.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test]
async fn a_farewell_that_was_asked_for_goes_along() {
    let workers = Workers::new();
    let (old, new) = (Rig::new(&workers).await, Rig::new(&workers).await);
    let (mut client, worker) = old.tunnel(&workers).await;
    until("the tunnel", || old.member.tunnels.open() == 1).await;
    // Chance may give it any moment of the window: almost surely not the first second.
    old.member.tunnels.close(Closing { code: 1012, window: Duration::from_secs(100_000) });
    let frozen = old.front.pause_tunnels(LONG, true).await;
    for tunnel in frozen {
        let (bytes, fds) = tunnel.to_transfer();
        let text = String::from_utf8_lossy(&bytes[4..]).into_owned();
        let left = text.split_once("\"farewell\":[1012,").unwrap().1.split_once(']').unwrap().0;
        assert!(left.parse::<u64>().unwrap() > 0);
        let soon = text.replace(&format!("[1012,{left}]"), "[1012,1]");
        let mut bytes = (soon.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(soon.as_bytes());
        let fds = fds.iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        drop(tunnel);
        new.front.adopt(&bytes, fds, |_| None).unwrap().activate();
    }
    let close = rest(&mut client).await;
    assert_eq!(&close[..4], &[0x88, 2, 0x03, 0xf4]);
    drop((client, worker));
    new.front.emptied().await;
}

#[tokio::test]
async fn a_tunnel_of_a_worker_that_no_pool_holds_goes_on() {
    let workers = Workers::new();
    let (old, new) = (Rig::new(&workers).await, Rig::new(&workers).await);
    let (mut client, mut worker) = old.tunnel(&workers).await;
    until("the tunnel", || old.member.tunnels.open() == 1).await;
    new.pool.publish(vec![]).await;
    let frozen = old.front.pause_tunnels(LONG, true).await;
    frozen.into_iter().for_each(|tunnel| drop(carry(tunnel, &new.front)));
    client.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    worker.read_exact(&mut hello).await.unwrap();
    assert_eq!((&hello, old.open(), new.open()), (b"hello", 0, 1));
    drop((client, worker));
    new.front.emptied().await;
}

#[tokio::test]
async fn wrong_parcels_are_refused_by_name() {
    let workers = Workers::new();
    let (old, new) = (Rig::new(&workers).await, Rig::new(&workers).await);
    let (_client, _worker) = old.tunnel(&workers).await;
    until("the tunnel", || old.member.tunnels.open() == 1).await;
    let tunnel = old.front.pause_tunnels(LONG, true).await.pop().unwrap();
    let (bytes, fds) = tunnel.to_transfer();
    let fds = || -> Vec<OwnedFd> { fds.iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect() };
    let refused =
        |bytes: &[u8], fds: Vec<OwnedFd>| new.front.adopt(bytes, fds, |_| None).map(Adopted::activate).unwrap_err();

    assert!(refused(&[], fds()).contains("ends within its length"));
    assert!(refused(&bytes[..20], fds()).contains("ends within its description"));
    assert!(refused(&[0xff; 100], fds()).contains("is longer than"));
    assert!(refused(b"\0\0\0\x02{}", fds()).contains("its description"));
    assert!(refused(&vec![0; 2 * 1024 * 1024], fds()).contains("more than a transfer may have"));
    assert!(refused(&[&bytes[..], b"x"].concat(), fds()).contains("bytes wait where"));
    assert!(refused(&bytes, vec![]).contains("has 2 descriptors, not 0"));
    let mut swapped = fds();
    swapped.reverse();
    assert!(refused(&bytes, swapped).contains("not a TCP connection"));
    let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    assert!(refused(&bytes, vec![file(), file()]).contains("no socket"));
    let listener = OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    assert!(refused(&bytes, vec![listener, file()]).contains("a listener"));
    let [client, _] = <[OwnedFd; 2]>::try_from(fds()).unwrap();
    assert!(refused(&bytes, vec![client.try_clone().unwrap(), client]).contains("not a connection of a Unix socket"));
    let text = String::from_utf8_lossy(&bytes[4..]).into_owned();
    for (was, is, wanted) in [
        ("\"stage\":0,\"length_bytes\":0", "\"stage\":2,\"length_bytes\":0", "no frame stands"),
        ("\"state\":\"open\"", "\"state\":\"shut\"", "unknown variant"),
        ("\"waiting\":0", "\"waiting\":18446744073709551615", "bytes wait where"),
        ("\"tag\":null", "\"tag\":\"too long\"", "no worker's tag"),
    ] {
        assert!(text.contains(was), "{text}");
        let text = text.replacen(was, is, 1);
        let bytes = [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
        let why = refused(&bytes, fds());
        assert!(why.contains(wanted), "{why}");
    }
    // Any bytes at all: an error, or a tunnel, but never a panic.
    let mut random = fastrand::Rng::with_seed(seed());
    for _ in 0..2_000 {
        let mut bytes = bytes.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        let _ = new.front.adopt(&bytes, fds(), |_| None).map(Adopted::activate);
    }
}
