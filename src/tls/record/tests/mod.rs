//! The record layer against rustls' own client, OpenSSL's, the vectors of RFC 8448, and noise.

mod fuzz;
mod handover;
mod layer;
mod openssl;
mod stream;
mod vectors;

use super::convert::{Conversion, convert};
use super::keys::{Secret, Suite};
use super::layer::{Flags, Opened, RecordLayer};
use super::secrets::{self, TrafficSecrets};
use super::state;
use rustls::client::ClientConnection;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ServerConfig, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, RootCertStore};
use std::io::{Read, Write};
use std::sync::Arc;

/// rustls with one cipher suite only.
fn provider(suite: Suite) -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|offered| u16::from(offered.suite()) == suite.number());
    Arc::new(provider)
}

fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>, String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    (made.cert.der().clone(), key, made.cert.pem(), made.signing_key.serialize_pem())
}

fn configs(suite: Suite) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let (cert, key, ..) = certificate();
    let versions = &[&rustls::version::TLS13];
    let builder = ServerConfig::builder_with_provider(provider(suite)).with_protocol_versions(versions).unwrap();
    let mut server = builder.with_no_client_auth().with_single_cert(vec![cert.clone()], key).unwrap();
    secrets::prepare(&mut server);
    let mut roots = RootCertStore::empty();
    roots.add(cert).unwrap();
    let builder = ClientConfig::builder_with_provider(provider(suite)).with_protocol_versions(versions).unwrap();
    (Arc::new(server), Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// A connection as rustls has it on our side.
struct Server {
    connection: Box<UnbufferedServerConnection>,
    secrets: Option<Box<TrafficSecrets>>,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    plain: Vec<u8>,
}

impl Server {
    fn new(config: &Arc<ServerConfig>) -> Server {
        let connection = Box::new(UnbufferedServerConnection::new(config.clone()).unwrap());
        Server { connection, secrets: None, incoming: Vec::new(), outgoing: Vec::new(), plain: Vec::new() }
    }

    /// Until rustls wants more.
    fn process(&mut self) {
        loop {
            let Server { connection, incoming, .. } = self;
            let mut more = true;
            let (discard, told) = {
                let (UnbufferedStatus { mut discard, state }, told) =
                    secrets::capture(|| connection.process_tls_records(incoming));
                match state.unwrap() {
                    ConnectionState::EncodeTlsData(mut data) => {
                        let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else { panic!() };
                        let start = self.outgoing.len();
                        self.outgoing.resize(start + size.required_size, 0);
                        data.encode(&mut self.outgoing[start..]).unwrap();
                    }
                    ConnectionState::TransmitTlsData(data) => data.done(),
                    ConnectionState::ReadTraffic(mut traffic) => {
                        while let Some(record) = traffic.next_record() {
                            let record = record.unwrap();
                            discard += record.discard;
                            self.plain.extend_from_slice(record.payload);
                        }
                    }
                    _ => more = false,
                }
                (discard, told)
            };
            self.secrets = told.or(self.secrets.take());
            self.incoming.drain(..discard);
            if !more && discard == 0 {
                return;
            }
        }
    }

    fn convert(self) -> (RecordLayer, Vec<u8>) {
        assert!(self.incoming.is_empty() && self.outgoing.is_empty());
        match convert(self.connection, &self.secrets.unwrap(), false) {
            Conversion::Converted(layer, unsent) => (*layer, unsent),
            Conversion::Stays(..) => panic!("it stays"),
            Conversion::Broken(what) => panic!("{what}"),
        }
    }
}

/// What the client has to send.
fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// What the client makes of these bytes; an end is told as an error.
fn receive(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        let state = client.process_new_packets().unwrap();
        let start = plain.len();
        plain.resize(start + state.plaintext_bytes_to_read(), 0);
        client.reader().read_exact(&mut plain[start..]).unwrap();
    }
    plain
}

/// A client of rustls, and our side of it after the handshake.
fn connected(suite: Suite) -> (ClientConnection, Server) {
    let (server, client) = configs(suite);
    let mut server = Server::new(&server);
    let mut client = ClientConnection::new(client, ServerName::try_from("localhost").unwrap()).unwrap();
    while client.is_handshaking() || client.wants_write() {
        server.incoming.extend(sent(&mut client));
        server.process();
        receive(&mut client, &std::mem::take(&mut server.outgoing));
    }
    server.incoming.extend(sent(&mut client));
    server.process();
    receive(&mut client, &std::mem::take(&mut server.outgoing));
    (client, server)
}

/// The same, with our side as a record layer.
fn pair(suite: Suite) -> (ClientConnection, RecordLayer) {
    let (client, server) = connected(suite);
    let (layer, unsent) = server.convert();
    assert!(unsent.is_empty());
    (client, layer)
}

fn say(client: &mut ClientConnection, text: &[u8]) -> Vec<u8> {
    client.writer().write_all(text).unwrap();
    sent(client)
}

/// All plaintext of whole records.
fn open_all(layer: &mut RecordLayer, bytes: &mut [u8]) -> Vec<u8> {
    let (mut start, mut plain) = (0, Vec::new());
    while start < bytes.len() {
        match layer.open(&mut bytes[start..]).unwrap() {
            Opened::Record { consumed, plaintext } => {
                plain.extend_from_slice(&bytes[start..][plaintext]);
                start += consumed;
            }
            other => panic!("{other:?}"),
        }
    }
    plain
}

fn seal_all(layer: &mut RecordLayer, mut text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while !text.is_empty() {
        let taken = layer.seal(text, &mut out).unwrap();
        text = &text[taken..];
    }
    out
}

/// The states of both ends of a connection, for [`super::stream::RecordStream::restore`].
pub(crate) fn states() -> [Vec<u8>; 2] {
    let secret = || (0..48).map(|_| fastrand::u8(..)).collect::<Vec<_>>();
    let (one, other) = (secret(), secret());
    let of = |read: &[u8], write: &[u8]| {
        let secret = |bytes| (Secret::new(bytes).unwrap(), 0);
        let layer = RecordLayer::new(Suite::Aes256Gcm, secret(read), secret(write), Flags::default()).unwrap();
        state::save(&layer, &state::Buffers::default()).unwrap().to_vec()
    };
    [of(&one, &other), of(&other, &one)]
}

/// Text that is nowhere the same.
fn text(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..length).map(|_| random.u8(..)).collect()
}
