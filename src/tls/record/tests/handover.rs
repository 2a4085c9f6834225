//! A connection goes on from what was written down of it, from wherever it stood.

use super::super::convert::{Conversion, convert};
use super::super::state::Buffers;
use super::super::stream::RecordStream;
use super::stream::{Stream, Wire, flush, read, ready, write};
use super::*;
use std::task::Poll;

/// As another process would go on with it.
fn moved(stream: Stream, wire: &Wire) -> Stream {
    let saved = stream.save().unwrap();
    drop(stream);
    RecordStream::restore(wire.clone(), &saved).unwrap()
}

fn open(suite: Suite, room: usize) -> (ClientConnection, Stream, Wire) {
    let (client, layer) = pair(suite);
    let wire = Wire::with_room(room);
    (client, RecordStream::new(wire.clone(), layer, Buffers::default()), wire)
}

#[test]
fn a_connection_moves_at_every_byte_of_a_record() {
    for suite in Suite::ALL {
        let (mut client, mut stream, wire) = open(suite, usize::MAX);
        let bytes = say(&mut client, b"a record in many pieces");
        for byte in &bytes {
            wire.arrive(&[*byte]);
            stream = match read(&mut stream, 5) {
                Poll::Pending => moved(stream, &wire),
                Poll::Ready(first) => {
                    assert_eq!(first.unwrap(), b"a rec");
                    moved(stream, &wire)
                }
            };
        }
        assert_eq!(ready(read(&mut stream, 100)), b"ord in many pieces", "plaintext that waits moves, too");
    }
}

#[test]
fn a_connection_moves_with_an_answer_to_a_key_update_due() {
    for suite in Suite::ALL {
        let (mut client, mut stream, wire) = open(suite, usize::MAX);
        client.refresh_traffic_keys().unwrap();
        wire.arrive(&sent(&mut client));
        assert!(read(&mut stream, 100).is_pending());
        stream = moved(stream, &wire);
        assert_eq!(ready(write(&mut stream, b"after it")), 8);
        assert_eq!(receive(&mut client, &wire.take_sent()), b"after it");
        wire.arrive(&say(&mut client, b"by the new key"));
        stream = moved(stream, &wire);
        assert_eq!(ready(read(&mut stream, 100)), b"by the new key");
    }
}

#[test]
fn a_connection_moves_with_bytes_that_were_not_sent() {
    for suite in Suite::ALL {
        let (mut client, mut stream, wire) = open(suite, 7);
        assert_eq!(ready(write(&mut stream, b"sealed before the move")), 22);
        stream = moved(stream, &wire);
        assert!(stream.has_unsent());
        wire.make_room(usize::MAX);
        ready(flush(&mut stream));
        assert_eq!(ready(write(&mut stream, b", and after")), 11);
        assert_eq!(receive(&mut client, &wire.take_sent()), b"sealed before the move, and after");
    }
}

/// A conversation by chance: texts, key updates of both, records in pieces, a socket that takes little, moves.
fn converse(suite: Suite, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut client, mut stream, wire) = open(suite, 0);
    let (mut to_us, mut to_client) = (Vec::new(), Vec::new());
    let (mut got, mut client_got) = (Vec::new(), Vec::new());
    let mut on_its_way = Vec::new();
    for step in 0..120 {
        match random.u8(..8) {
            0 => {
                let text = text(seed + step, random.usize(1..3000));
                on_its_way.extend(say(&mut client, &text));
                to_us.extend(text);
            }
            1 if random.bool() => {
                client.refresh_traffic_keys().unwrap();
                on_its_way.extend(sent(&mut client));
            }
            2 => {
                let text = text(seed + step, random.usize(1..20_000));
                if let Poll::Ready(taken) = write(&mut stream, &text) {
                    to_client.extend_from_slice(&text[..taken.unwrap()]);
                }
            }
            3 => {
                let cut = random.usize(..=on_its_way.len());
                wire.arrive(&on_its_way.drain(..cut).collect::<Vec<_>>());
            }
            4 => {
                if let Poll::Ready(bytes) = read(&mut stream, random.usize(1..5000)) {
                    got.extend(bytes.unwrap());
                }
            }
            5 => wire.make_room(random.usize(..5000)),
            6 => client_got.extend(receive(&mut client, &wire.take_sent())),
            _ => stream = moved(stream, &wire),
        }
    }
    wire.arrive(&on_its_way);
    wire.make_room(usize::MAX);
    ready(flush(&mut stream));
    stream = moved(stream, &wire);
    client_got.extend(receive(&mut client, &wire.take_sent()));
    while let Poll::Ready(bytes) = read(&mut stream, 1000) {
        got.extend(bytes.unwrap());
    }
    assert!(got == to_us && client_got == to_client, "{suite:?}, seed {seed}");
}

#[test]
fn conversations_go_on_over_many_moves() {
    for suite in Suite::ALL {
        (0..60).for_each(|seed| converse(suite, seed));
    }
}

#[test]
fn key_updates_before_the_conversion_are_kept() {
    for suite in Suite::ALL {
        let (mut client, mut server) = connected(suite);
        for _ in 0..3 {
            client.refresh_traffic_keys().unwrap();
            server.incoming.extend(say(&mut client, b"x"));
            server.process();
        }
        assert_eq!(server.plain, b"xxx");
        let (mut layer, unsent) = server.convert();
        // What rustls kept back until it would have something to say after it.
        assert!(!unsent.is_empty());
        receive(&mut client, &unsent);
        assert_eq!(receive(&mut client, &seal_all(&mut layer, b"answer")), b"answer");
        assert_eq!(open_all(&mut layer, &mut say(&mut client, b"question")), b"question");
    }
}

#[test]
fn a_connection_that_is_no_tls_1_3_stays_with_rustls() {
    let (cert, key, ..) = certificate();
    let versions = &[&rustls::version::TLS12];
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(vec![cert.clone()], key).unwrap();
    secrets::prepare(&mut config);
    let mut roots = RootCertStore::empty();
    roots.add(cert).unwrap();
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let client = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
    let mut client = ClientConnection::new(client, ServerName::try_from("localhost").unwrap()).unwrap();
    let mut server = Server::new(&Arc::new(config));
    while client.is_handshaking() {
        server.incoming.extend(sent(&mut client));
        server.process();
        receive(&mut client, &std::mem::take(&mut server.outgoing));
    }
    assert!(server.secrets.is_none(), "rustls tells no secrets of TLS 1.2");
    let (_, other) = connected(Suite::Aes128Gcm);
    let conversion = convert(server.connection, &other.secrets.unwrap(), false);
    assert!(matches!(conversion, Conversion::Stays(..)));
}

#[test]
fn secrets_of_another_connection_are_noticed() {
    let (_, server) = connected(Suite::Aes128Gcm);
    let (_, other) = connected(Suite::Aes128Gcm);
    assert!(matches!(convert(server.connection, &other.secrets.unwrap(), false), Conversion::Broken(_)));
}

#[test]
fn a_connection_within_its_handshake_stays_with_rustls() {
    let (config, _) = configs(Suite::Aes128Gcm);
    let connection = Box::new(UnbufferedServerConnection::new(config).unwrap());
    let (_, other) = connected(Suite::Aes128Gcm);
    assert!(matches!(convert(connection, &other.secrets.unwrap(), false), Conversion::Stays(..)));
}

#[test]
fn a_state_that_is_cut_or_wrong_is_refused() {
    let (_, stream, wire) = open(Suite::Aes256Gcm, 0);
    let saved = stream.save().unwrap();
    let refused = |bytes: &[u8]| RecordStream::restore(wire.clone(), bytes).map(drop).unwrap_err();
    for end in 0..saved.len() {
        refused(&saved[..end]);
    }
    assert_eq!(refused(&[&saved[..], &[0]].concat()), "the TLS state goes on behind its end");
    let changed = |at: usize, byte: u8| {
        let mut bytes = saved.to_vec();
        bytes[at] = byte;
        bytes
    };
    assert_eq!(refused(&changed(0, 2)), "the TLS state has version 2, not 1");
    assert_eq!(refused(&changed(2, 9)), "cipher suite 0x1309 is not known");
    assert_eq!(refused(&changed(3, 0x80)), "the TLS state has flags that are not known");
    let length = saved.len() - 12;
    assert!(refused(&changed(length, 0xff)).contains("bytes wait in the TLS state where"));
}
