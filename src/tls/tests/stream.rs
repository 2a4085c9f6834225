//! The stream against rustls' own client, over real sockets.

use crate::tls::handshake::{self, Reason};
use crate::tls::rules::{Settings, TlsRules};
use crate::tls::stream::TlsStream;
use arc_swap::ArcSwap;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, version};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

type Client = StreamOwned<ClientConnection, std::net::TcpStream>;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];
const LONG: Duration = Duration::from_secs(20);

struct Rig {
    listener: TcpListener,
    rules: ArcSwap<TlsRules>,
    root: CertificateDer<'static>,
}

impl Rig {
    async fn new(settings: Settings) -> Rig {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let rules = TlsRules::of_pair(cert.as_bytes(), key.as_bytes(), &settings).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Rig { listener, rules: ArcSwap::from_pointee(rules), root: made.cert.der().clone() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    async fn plain(&self) -> L4Stream {
        self.listener.accept().await.unwrap().0.into()
    }

    async fn accept(&self) -> TlsStream {
        let accepted = tokio::time::timeout(LONG, handshake::accept(self.plain().await, &self.rules)).await.unwrap();
        accepted.unwrap_or_else(|failure| panic!("{}", failure.why))
    }

    /// A client on a thread of its own.
    fn client<T: Send + 'static>(
        &self,
        version: &'static SupportedProtocolVersion,
        talk: impl FnOnce(Client) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let (root, address) = (self.root.clone(), self.address());
        std::thread::spawn(move || {
            let mut roots = RootCertStore::empty();
            roots.add(root).unwrap();
            let config = ClientConfig::builder_with_provider(crate::tls::rules::provider())
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let name = ServerName::try_from("localhost").unwrap();
            let connection = ClientConnection::new(Arc::new(config), name).unwrap();
            let socket = std::net::TcpStream::connect(address).unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            talk(StreamOwned::new(connection, socket))
        })
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    (0..len).map(|_| random.u8(..)).collect()
}

/// Sends what it gets back until the client ends its side.
async fn echo(stream: &mut TlsStream, at_once: usize) -> std::io::Result<()> {
    let mut buffer = vec![0; at_once];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            n => stream.write_all(&buffer[..n]).await?,
        }
        stream.flush().await?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_come_back_whole_however_they_are_read() {
    let rig = Rig::new(Settings::default()).await;
    for version in VERSIONS {
        for (len, at_once) in [(1, 1), (5_000, 7), (100_000, 1_000), (300_000, 16_384), (2_000_000, 100_000)] {
            let sent = noise(len);
            let expected = sent.clone();
            let client = rig.client(version, move |mut client| {
                for part in sent.chunks(40_000) {
                    client.write_all(part).unwrap();
                    let mut back = vec![0; part.len()];
                    client.read_exact(&mut back).unwrap();
                    assert_eq!(back, part);
                }
                client.conn.send_close_notify();
                client.flush().unwrap();
                let mut rest = Vec::new();
                client.read_to_end(&mut rest).unwrap();
                assert!(rest.is_empty());
                sent
            });
            let mut stream = rig.accept().await;
            echo(&mut stream, at_once).await.unwrap();
            assert_eq!(client.join().unwrap(), expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_slow_client_does_not_take_is_kept_and_flushed() {
    let rig = Rig::new(Settings::default()).await;
    let expected = noise(4_000_000);
    let client = rig.client(&version::TLS13, |mut client| {
        client.flush().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        all
    });
    let mut stream = rig.accept().await;
    stream.write_all(&expected).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(client.join().unwrap() == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_without_a_close_notify_is_an_error_and_one_with_it_is_an_end() {
    let rig = Rig::new(Settings::default()).await;
    for version in VERSIONS {
        let client = rig.client(version, |mut client| {
            client.write_all(b"half").unwrap();
            client.sock.shutdown(Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).map(|_| rest)
        });
        let mut stream = rig.accept().await;
        let mut read = Vec::new();
        let error = stream.read_to_end(&mut read).await.unwrap_err();
        assert_eq!((error.kind(), &read[..]), (std::io::ErrorKind::UnexpectedEof, &b"half"[..]));
        // It may still read.
        stream.write_all(b"answer").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(client.join().unwrap().unwrap(), b"answer");

        let client = rig.client(version, |mut client| {
            client.write_all(b"whole").unwrap();
            client.conn.send_close_notify();
            client.flush().unwrap();
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).map(|_| rest)
        });
        let mut stream = rig.accept().await;
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"whole");
        stream.write_all(b"answer").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(client.join().unwrap().unwrap(), b"answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_back_is_read_again_and_first() {
    let rig = Rig::new(Settings::default()).await;
    let client = rig.client(&version::TLS13, |mut client| {
        client.write_all(b"one two").unwrap();
        let _ = client.read(&mut [0]);
    });
    let mut stream = rig.accept().await;
    let mut first = [0; 4];
    stream.read_exact(&mut first).await.unwrap();
    stream.rewind(&first);
    let mut all = [0; 7];
    stream.read_exact(&mut all).await.unwrap();
    assert_eq!(&all, b"one two");
    stream.shutdown().await.unwrap();
    client.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_stream_holds_no_buffer() {
    let rig = Rig::new(Settings::default()).await;
    let (ready, waits) = std::sync::mpsc::channel();
    let client = rig.client(&version::TLS13, move |mut client| {
        client.write_all(&noise(100_000)).unwrap();
        client.read_exact(&mut [0; 100_000]).unwrap();
        waits.recv().unwrap();
    });
    let mut stream = rig.accept().await;
    let mut all = vec![0; 100_000];
    stream.read_exact(&mut all).await.unwrap();
    stream.write_all(&all).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(stream.held(), 0);
    ready.send(()).unwrap();
    client.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_bytes_are_an_error_and_nothing_of_them_is_read() {
    let rig = Rig::new(Settings::default()).await;
    for version in VERSIONS {
        let client = rig.client(version, |mut client| {
            client.write_all(b"good").unwrap();
            // Application data that no key has made.
            let mut forged = vec![23, 3, 3, 0, 64];
            forged.extend_from_slice(&noise(64));
            client.sock.write_all(&forged).unwrap();
            client.read(&mut [0; 16]).map_err(|error| error.to_string())
        });
        let mut stream = rig.accept().await;
        let mut read = Vec::new();
        assert_eq!(stream.read_to_end(&mut read).await.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
        assert_eq!(read, b"good");
        assert!(stream.write_all(b"x").await.is_err());
        let said = client.join().unwrap().unwrap_err();
        assert!(said.contains("BadRecordMac") || said.contains("alert"), "{said}");
    }
}

#[tokio::test]
async fn who_is_silent_or_speaks_something_else_is_told_apart() {
    let settings = Settings { handshake_timeout: Duration::from_millis(200), ..Settings::default() };
    let rig = Rig::new(settings).await;
    let cases: [(&[u8], bool, Reason); 6] = [
        (b"", false, Reason::Timeout),
        (&[22, 3, 1, 1], false, Reason::Timeout),
        (b"", true, Reason::Closed),
        (b"GET / HTTP/1.1\r\n\r\n", false, Reason::PlainHttp),
        (&[0x80, 1, 2, 3, 4, 5, 6, 7], false, Reason::NotTls),
        (&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0], false, Reason::Protocol),
    ];
    for (said, ends, expected) in cases {
        let mut client = tokio::net::TcpStream::connect(rig.address()).await.unwrap();
        client.write_all(said).await.unwrap();
        if ends {
            client.shutdown().await.unwrap();
        }
        let accepting = handshake::accept(rig.plain().await, &rig.rules);
        let failure = accepting.await.err().unwrap();
        assert_eq!(failure.reason, expected, "{said:?}: {}", failure.why);
        assert_eq!(failure.plain.is_some(), expected == Reason::PlainHttp);
    }
}

#[test]
fn each_reason_is_counted_in_its_own_place() {
    for (place, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(*reason as usize, place);
    }
}
