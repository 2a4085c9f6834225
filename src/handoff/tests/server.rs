//! Who knocks, and what is not let in.

use super::*;
use std::path::Path;

#[tokio::test]
async fn nobody_waits() {
    let trial = Trial::begin(0).await;
    let why = trial.trigger.hand_over().await.unwrap_err();
    assert!(why.to_string().contains("no successor waits"), "{why}");
    assert!(trial.deeds.all().is_empty());
    trial.server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_successor_at_a_time_and_a_candidate_may_leave() {
    let trial = Trial::begin(0).await;
    let path = trial.dir.0.join(SOCKET);
    let own = std::process::id();
    let knock_as = |pid, protocol| {
        let path = path.clone();
        async move {
            let mut channel = wire::Channel::new(tokio::net::UnixStream::connect(&path).await.unwrap());
            let hello = message::Message::Hello {
                protocol,
                version: "9".into(),
                pid,
                capabilities: vec!["of a later version".into()],
            };
            channel.say(&hello).await.unwrap();
            let heard = channel.hear().await.unwrap();
            (channel, heard)
        }
    };
    let knock = |protocol| knock_as(own, protocol);
    let refusal = |heard| match heard {
        wire::Frame::Message(message::Message::Refused { reason }, _) => reason,
        other => panic!("{other:?}"),
    };
    let (_, heard) = knock(99).await;
    assert!(refusal(heard).contains("by protocol 99"), "the version is named");
    let (_, heard) = knock_as(1, PROTOCOL).await;
    let why = refusal(heard);
    assert!(
        why.contains(&format!("calls itself process 1 and is process {own}")),
        "nobody else is killed for it: {why}"
    );
    let (first, heard) = knock(PROTOCOL).await;
    assert!(matches!(heard, wire::Frame::Message(message::Message::Welcome { .. }, _)));
    let (_, heard) = knock(PROTOCOL).await;
    assert!(refusal(heard).contains(&format!("process {own} waits")));
    drop(first);
    loop {
        let (_second, heard) = knock(PROTOCOL).await;
        if matches!(heard, wire::Frame::Message(message::Message::Welcome { .. }, _)) {
            break;
        }
    }
    trial.server.abort();
}

#[tokio::test]
async fn strangers_and_garbage_change_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let trial = Trial::begin(0).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[1, 0, 0, 0, 2, 0, 0, 0, b'{', b'}'], b"x"] {
        let mut stream = tokio::net::UnixStream::connect(trial.dir.0.join(SOCKET)).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good an end as any.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
    }
    assert!(trial.trigger.hand_over().await.is_err());
    assert!(trial.deeds.all().is_empty());
    trial.server.abort();
}

#[test]
fn no_predecessor() {
    let dir = Dir::new();
    let why = take_over(&dir.0).unwrap_err().to_string();
    assert!(why.contains("start without -u"), "{why}");
    std::os::unix::net::UnixListener::bind(dir.0.join(SOCKET)).map(drop).unwrap();
    assert!(take_over(Path::new(&dir.0)).is_err());
}

#[test]
fn parcels_that_are_cut_wrongly_are_refused() {
    for body in [&[9, 0, 0, 0, 0][..], &[0, 0, 0], &[0, 0, 0, 0, 1], &[255, 255, 255, 255, 0, 1]] {
        assert!(wire::connections(body, Vec::new()).is_none(), "{body:?}");
    }
    assert!(wire::connections(&[1, 0, 0, 0, 0, 7], vec![file("too many")]).is_none());
    assert_eq!(wire::connections(&[1, 0, 0, 0, 0, 7], Vec::new()).unwrap().len(), 1);
}
