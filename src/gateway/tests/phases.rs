//! What becomes of connections, by phase.

use super::*;
use crate::gateway::Phase;

pub(super) const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// The same from a worker that keeps no connection: each request opens one.
pub(super) const LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

/// Whether an answer asks its client to leave.
pub(super) fn says_close(head: &str) -> bool {
    head.contains("Connection: close\r\n")
}

/// One request and its answer, on a connection that goes on or not.
pub(super) async fn get(client: &mut TcpStream, workers: &Workers) -> String {
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut worker = workers.accept().await;
    worker.write_all(LAST.as_bytes()).await.unwrap();
    answer(client).await
}

/// An answer's head; its body is `ok`.
pub(super) async fn answer(client: &mut TcpStream) -> String {
    let head = read_head(client).await;
    let mut body = [0; 2];
    client.read_exact(&mut body).await.unwrap();
    assert_eq!((&body, head.starts_with("HTTP/1.1 200 ")), (b"ok", true), "{head}");
    head
}

#[tokio::test]
async fn leaving_serves_and_asks_to_leave() {
    let workers = Workers::new();
    let rig = Rig::new(&workers).await;
    let (mut early, mut idle) = (rig.client().await, rig.client().await);
    assert!(!says_close(&get(&mut early, &workers).await));
    rig.front.set_phase(Phase::KeepAliveOff);
    assert!(says_close(&get(&mut early, &workers).await));
    assert_eq!(rest(&mut early).await, b"");
    // An idle one, and a new one, are served.
    assert!(says_close(&get(&mut idle, &workers).await));
    assert!(says_close(&get(&mut rig.client().await, &workers).await));
    rig.front.emptied().await;
    assert_eq!(rig.open(), 0);
}

#[tokio::test]
async fn closed_ends_idle_connections_and_finishes_requests() {
    let workers = Workers::new();
    let rig = Rig::new(&workers).await;
    let (mut idle, mut busy, mut begun) = (rig.client().await, rig.client().await, rig.client().await);
    let (mut late, mut silent) = (rig.client().await, rig.client().await);
    get(&mut idle, &workers).await;
    get(&mut begun, &workers).await;
    busy.write_all(GET.as_bytes()).await.unwrap();
    let mut worker = workers.accept().await;
    begun.write_all(&GET.as_bytes()[..10]).await.unwrap();
    late.write_all(GET.as_bytes()).await.unwrap();
    let mut answering = workers.accept().await;
    answering.write_all(&OK.as_bytes()[..OK.len() - 2]).await.unwrap();
    assert!(!says_close(&read_head(&mut late).await));
    until("five connections", || rig.open() == 5).await;
    // For the front to have read what `begun` sent.
    tokio::time::sleep(Duration::from_millis(50)).await;

    rig.front.set_phase(Phase::Draining);
    assert_eq!(rest(&mut idle).await, b"");
    assert_eq!(rest(&mut silent).await, b"", "one that never spoke ends a moment later");
    worker.write_all(LAST.as_bytes()).await.unwrap();
    assert!(says_close(&answer(&mut busy).await));
    begun.write_all(&GET.as_bytes()[10..]).await.unwrap();
    workers.accept().await.write_all(LAST.as_bytes()).await.unwrap();
    assert!(says_close(&answer(&mut begun).await));
    // Its answer's head had gone: it ends behind the body.
    answering.write_all(b"ok").await.unwrap();
    assert_eq!(rest(&mut late).await, b"ok");
    rig.front.emptied().await;
}

#[tokio::test]
async fn a_client_that_has_just_come_may_speak() {
    let workers = Workers::new();
    let rig = Rig::new(&workers).await;
    rig.front.set_phase(Phase::Draining);
    let mut client = rig.client().await;
    assert!(says_close(&get(&mut client, &workers).await));
    rig.front.emptied().await;
}

#[tokio::test]
async fn tunnels_outlive_closed() {
    let workers = Workers::new();
    let rig = Rig::new(&workers).await;
    let (mut client, mut worker) = rig.tunnel(&workers).await;
    rig.front.set_phase(Phase::Draining);
    for n in 0..100u8 {
        client.write_u8(n).await.unwrap();
        assert_eq!(worker.read_u8().await.unwrap(), n);
    }
    assert_eq!(rig.open(), 1);
    drop(client);
    assert_eq!(rest(&mut worker).await, b"");
    drop(worker);
    rig.front.emptied().await;
    assert_eq!(rig.member.load.parked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn http2_ends_with_a_goaway() {
    let workers = Workers::new();
    let rig = Rig::new(&workers).await;
    let front = Arc::new(rig.front.at(h2c_listener()));
    let mut client = rig.client_of(&front).await;
    // In pieces: the front must not decide too early. The preface, then an empty SETTINGS frame.
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.write_all(b"\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    assert_eq!(frame(&mut client).await, 4, "SETTINGS");
    rig.front.set_phase(Phase::KeepAliveOff);
    rig.front.set_phase(Phase::Draining);
    while frame(&mut client).await != 7 {}
    // Those that come later are told, too; and HTTP/1 goes on beside it.
    let mut late = rig.client_of(&front).await;
    late.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    while frame(&mut late).await != 7 {}
    let mut plain = rig.client_of(&front).await;
    assert!(says_close(&get(&mut plain, &workers).await));
    drop((client, late));
    rig.front.emptied().await;
}

/// The type of the next HTTP/2 frame.
pub(super) async fn frame(client: &mut TcpStream) -> u8 {
    let mut head = [0; 9];
    tokio::time::timeout(LONG, client.read_exact(&mut head)).await.expect("a frame comes").unwrap();
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    client.read_exact(&mut payload).await.unwrap();
    head[3]
}

#[tokio::test]
async fn a_poll_whose_worker_ends_with_the_proxy_is_answered() {
    let workers = Workers::new();
    let rig = Rig::new(&workers).await;
    let poll = "GET /socket.io/?EIO=4&transport=polling&sid=abcdefghijklmnopqrst HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = rig.client().await;
    client.write_all(poll.as_bytes()).await.unwrap();
    let worker = workers.accept().await;
    rig.front.set_phase(Phase::Draining);
    drop(worker);
    let answer = String::from_utf8(rest(&mut client).await).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n1") && says_close(&answer),
        "{answer}"
    );
    drop(client);
    rig.front.emptied().await;
}

#[tokio::test]
async fn requests_that_come_at_the_last_moment_get_a_worker_that_drains() {
    let workers = Workers::new();
    let rig = Rig::new(&workers).await;
    let (mut begun, mut upgrading) = (rig.client().await, rig.client().await);
    begun.write_all(&GET.as_bytes()[..10]).await.unwrap();
    upgrading.write_all(&UPGRADE.as_bytes()[..10]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    rig.front.set_phase(Phase::Draining);
    rig.pool.publish(vec![Seat { member: rig.member.clone(), open: false }]).await;
    begun.write_all(&GET.as_bytes()[10..]).await.unwrap();
    workers.accept().await.write_all(LAST.as_bytes()).await.unwrap();
    assert!(says_close(&answer(&mut begun).await));
    upgrading.write_all(&UPGRADE.as_bytes()[10..]).await.unwrap();
    let mut worker = workers.accept().await;
    worker.write_all(SWITCHING.as_bytes()).await.unwrap();
    assert!(read_head(&mut upgrading).await.starts_with("HTTP/1.1 101"));
}
