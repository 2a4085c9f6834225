//! `openssl s_client`, which changes keys on command, before and after moves.

use super::super::state::Buffers;
use super::super::stream::RecordStream;
use super::*;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

const LIMIT: Duration = Duration::from_secs(20);

/// The client, and all that it has printed.
struct Client {
    child: Child,
    printed: Vec<u8>,
}

impl Client {
    fn start(port: u16, suite: Suite) -> Option<Client> {
        let name = suite.name().replace("TLS13", "TLS");
        let child = Command::new("openssl")
            .args(["s_client", "-tls1_3", "-ciphersuites", &name, "-connect", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        Some(Client { child, printed: Vec::new() })
    }

    async fn say(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).await.unwrap();
    }

    async fn until(&mut self, words: &str) {
        let Client { child, printed } = self;
        let (out, err) = (child.stdout.as_mut().unwrap(), child.stderr.as_mut().unwrap());
        let wait = async {
            while !printed.windows(words.len()).any(|window| window == words.as_bytes()) {
                let (mut from_out, mut from_err) = (Vec::new(), Vec::new());
                tokio::select! {
                    n = out.read_buf(&mut from_out) => assert!(n.unwrap() > 0, "it ended"),
                    n = err.read_buf(&mut from_err) => drop(n),
                }
                printed.extend(from_out);
                printed.extend(from_err);
            }
        };
        let done = tokio::time::timeout(LIMIT, wait).await;
        assert!(done.is_ok(), "{words:?} did not come: {}", String::from_utf8_lossy(printed));
        printed.clear();
    }
}

/// Shakes hands and leaves rustls.
async fn accept(listener: &TcpListener, suite: Suite) -> RecordStream<TcpStream> {
    let (mut tcp, _) = listener.accept().await.unwrap();
    let mut server = Server::new(&configs(suite).0);
    while server.connection.is_handshaking() {
        tcp.read_buf(&mut server.incoming).await.unwrap();
        server.process();
        tcp.write_all(&std::mem::take(&mut server.outgoing)).await.unwrap();
    }
    let (layer, unsent) = server.convert();
    RecordStream::new(tcp, layer, Buffers { incoming: Vec::new(), plain: Vec::new(), unsent })
}

fn moved(stream: RecordStream<TcpStream>) -> RecordStream<TcpStream> {
    let saved = stream.save().unwrap();
    RecordStream::restore(stream.into_inner(), &saved).unwrap()
}

/// What it says comes, and it gets an answer.
async fn exchange(client: &mut Client, stream: &mut RecordStream<TcpStream>, word: &str) {
    client.say(&format!("{word}\n")).await;
    let mut got = Vec::new();
    while !got.ends_with(b"\n") {
        let read = tokio::time::timeout(LIMIT, stream.read_buf(&mut got)).await;
        assert_ne!(read.unwrap().unwrap(), 0, "it ended");
    }
    assert_eq!(String::from_utf8(got).unwrap(), format!("{word}\n"));
    stream.write_all(format!("answer to {word}\n").as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    client.until(&format!("answer to {word}")).await;
}

#[tokio::test]
async fn openssl_changes_keys_before_and_after_moves() {
    for suite in Suite::ALL {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let Some(mut client) = Client::start(listener.local_addr().unwrap().port(), suite) else {
            println!("left out: there is no openssl here");
            return;
        };
        let mut stream = accept(&listener, suite).await;
        exchange(&mut client, &mut stream, "one").await;
        stream = moved(stream);
        exchange(&mut client, &mut stream, "two").await;
        // With one in return asked for, and without.
        for (command, words) in [("K\n", ["three", "four"]), ("k\n", ["five", "six"])] {
            client.say(command).await;
            client.until("KEYUPDATE").await;
            exchange(&mut client, &mut stream, words[0]).await;
            stream = moved(stream);
            exchange(&mut client, &mut stream, words[1]).await;
            client.say(command).await;
            client.until("KEYUPDATE").await;
            stream = moved(stream);
            exchange(&mut client, &mut stream, "in between").await;
        }
        stream.shutdown().await.unwrap();
        client.until("closed").await;
    }
}
