//! How a client's connection ends while it still sends: nothing that was sent to it is lost.

use super::phases::{GET, LAST, answer, get, says_close};
use super::*;
use crate::gateway::Phase;

/// Longer than what a worker's socket and the gateway take together, and what is read after an answer's end.
const BODY: usize = 600_000;

/// A client that has sent `bytes` once it is read.
async fn sent(rig: &Rig, bytes: Vec<u8>) -> TcpStream {
    let mut client = rig.client().await;
    client.write_all(&bytes).await.unwrap();
    client
}

fn get_and_post(body: usize) -> Vec<u8> {
    let mut bytes = format!("{GET}POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {body}\r\n\r\n").into_bytes();
    bytes.resize(bytes.len() + body, b'x');
    bytes
}

/// Answers the GET; of the POST, reads the head alone, says `last` and closes.
async fn refuse(workers: &Workers, last: &str) {
    workers.accept().await.write_all(LAST.as_bytes()).await.unwrap();
    workers.accept().await.write_all(last.as_bytes()).await.unwrap();
}

/// What the client gets up to a regular end: a reset fails.
async fn all(client: &mut TcpStream) -> String {
    String::from_utf8(rest(client).await).unwrap()
}

fn of_get(all: &str) -> &str {
    let (first, last) = all.split_once("\r\n\r\nok").unwrap();
    assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{all}");
    last
}

#[tokio::test]
async fn a_worker_that_leaves_a_body_unread_has_answered() {
    let workers = Workers::new();
    let rig = Rig::new(&workers).await;
    // More than the gateway holds, and less.
    for body in [BODY, 20_000] {
        let mut client = sent(&rig, get_and_post(body)).await;
        refuse(&workers, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nno").await;
        assert_eq!(of_get(&all(&mut client).await), "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nno");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_takes_no_earlier_one_along() {
    let workers = Workers::new();
    let rig = Rig::new(&workers).await;
    let mut client = sent(&rig, get_and_post(BODY)).await;
    refuse(&workers, "HTTP/1.1 400 Bad Request\r\nContent-Length: 10\r\n\r\nhalf").await;
    let all = all(&mut client).await;
    let answer = of_get(&all);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("\r\n\r\nhalf"), "{answer}");
}

#[tokio::test]
async fn a_client_that_sends_on_is_held_up_before_it_is_reset() {
    let workers = Workers::new();
    let rig = Rig::new(&workers).await;
    let mut client = rig.client().await;
    let bytes = get_and_post(30_000_000);
    let (mut reading, mut writing) = client.split();
    let sending = tokio::time::timeout(Duration::from_millis(500), writing.write_all(&bytes));
    let refused = refuse(&workers, "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno");
    let (sent, ()) = tokio::join!(sending, refused);
    assert!(sent.is_err(), "neither all sent nor reset: {sent:?}");
    let mut all = vec![0; 1024];
    let mut len = 0;
    while !all[..len].ends_with(b"no") {
        let n = reading.read(&mut all[len..]).await.unwrap();
        assert_ne!(n, 0, "an end before the answer's");
        len += n;
    }
    of_get(&String::from_utf8_lossy(&all[..len]));
}

/// An answer that comes before half of its request's body has, and says that the connection stays.
async fn answered_early(rig: &Rig, workers: &Workers) -> TcpStream {
    let mut bytes = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n".to_vec();
    bytes.resize(bytes.len() + 20_000, b'x');
    let mut client = sent(rig, bytes).await;
    workers.accept().await.write_all(LAST.as_bytes()).await.unwrap();
    assert!(!says_close(&answer(&mut client).await));
    client
}

#[tokio::test]
async fn a_body_behind_its_answer_is_waited_for_as_any_body() {
    let workers = Workers::new();
    let rig = Rig::new(&workers).await;
    let mut client = answered_early(&rig, &workers).await;
    // Longer than a connection lingers.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    client.write_all(&[b'x'; 20_000]).await.unwrap();
    get(&mut client, &workers).await;
}

#[tokio::test]
async fn a_body_behind_its_answer_is_not_waited_for_longer() {
    let workers = Workers::new();
    let rig = Rig::with(&workers, Limits { body_timeout: Duration::from_millis(100), ..limits() }).await;
    let mut client = answered_early(&rig, &workers).await;
    assert_eq!(rest(&mut client).await, b"");
}

#[tokio::test]
async fn a_body_behind_its_answer_does_not_hold_up_a_stop() {
    let workers = Workers::new();
    let rig = Rig::new(&workers).await;
    let mut client = answered_early(&rig, &workers).await;
    rig.front.set_phase(Phase::Draining);
    assert_eq!(rest(&mut client).await, b"");
}
