//! How a client's connection ends while it still sends: nothing that was sent to it is lost.

use super::phases::{GET, LAST};
use super::*;

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
