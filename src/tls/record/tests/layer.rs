//! The rules of RFC 8446 for records, asked of both ends.

use super::super::keys::{Protection, Secret, Suite};
use super::super::layer::{Alert, Fault, Flags, HEADER, MAX_PLAINTEXT, Opened, RecordLayer};
use super::*;

/// A layer, and what seals for it as the client does, whatever it is told to seal.
struct Forge {
    layer: RecordLayer,
    client: Protection,
}

impl Forge {
    fn new() -> Forge {
        let secret = |byte: u8| Secret::new(&[byte; 32]).unwrap();
        let suite = Suite::Aes128Gcm;
        let layer = RecordLayer::new(suite, (secret(1), 0), (secret(2), 0), Flags::default()).unwrap();
        Forge { layer, client: Protection::new(suite, secret(1), 0).ok().unwrap() }
    }

    /// A record of these bytes: content, type and padding.
    fn record(&mut self, inner: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(inner.len() + 16).unwrap().to_be_bytes();
        let header = [23, 3, 3, high, low];
        let mut record = [&header, inner].concat();
        let tag = self.client.seal(&header, &mut record[5..]).ok().unwrap();
        record.extend_from_slice(&tag);
        record
    }

    fn open(&mut self, inner: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut record = self.record(inner);
        match self.layer.open(&mut record)? {
            Opened::Record { consumed, plaintext } => {
                assert_eq!(consumed, record.len());
                Ok(record[plaintext].to_vec())
            }
            other => panic!("{other:?}"),
        }
    }

    /// The alert that answers this.
    fn alert(inner: &[u8]) -> Alert {
        let mut forge = Forge::new();
        let fault = forge.open(inner).unwrap_err();
        assert_eq!(forge.layer.open(&mut []), Err(Fault::Over), "nothing is opened after a fault");
        match fault {
            Fault::Peer(alert, _) => alert,
            other => panic!("{other:?}"),
        }
    }
}

const KEY_UPDATE: [u8; 6] = [24, 0, 0, 1, 0, 22];
const KEY_UPDATE_REQUESTED: [u8; 6] = [24, 0, 0, 1, 1, 22];

#[test]
fn text_passes_both_ways_with_every_suite() {
    for suite in Suite::ALL {
        let (mut client, mut layer) = pair(suite);
        for (seed, length) in [1, 2, 1000, MAX_PLAINTEXT, MAX_PLAINTEXT + 1, 50_000].into_iter().enumerate() {
            let text = text(seed as u64, length);
            assert_eq!(open_all(&mut layer, &mut say(&mut client, &text)), text, "{suite:?} to us, {length}");
            assert_eq!(receive(&mut client, &seal_all(&mut layer, &text)), text, "{suite:?} to the client, {length}");
        }
    }
}

#[test]
fn a_record_is_opened_once_it_is_whole() {
    let (mut client, mut layer) = pair(Suite::Aes128Gcm);
    let mut record = say(&mut client, b"whole");
    for end in 0..record.len() {
        assert_eq!(layer.open(&mut record[..end]).unwrap(), Opened::Partial);
    }
    assert_eq!(open_all(&mut layer, &mut record), b"whole");
}

#[test]
fn key_updates_of_the_client_are_followed_and_answered() {
    for suite in Suite::ALL {
        let (mut client, mut layer) = pair(suite);
        for round in 0..3_u8 {
            // rustls asks for one in return.
            client.refresh_traffic_keys().unwrap();
            let mut bytes = say(&mut client, &[round]);
            assert_eq!(open_all(&mut layer, &mut bytes), [round]);
            let reply = seal_all(&mut layer, b"reply");
            assert_eq!(reply.len(), (5 + 5 + 17) + (5 + 5 + 17), "a key update and the data");
            assert_eq!(receive(&mut client, &reply), b"reply");
            let next = seal_all(&mut layer, b"again");
            assert_eq!(next.len(), 5 + 5 + 17, "said once");
            assert_eq!(receive(&mut client, &next), b"again");
        }
    }
}

#[test]
fn a_key_update_that_asks_for_none_gets_none() {
    let mut forge = Forge::new();
    assert_eq!(forge.open(&KEY_UPDATE).unwrap(), b"");
    forge.client.update().ok().unwrap();
    assert_eq!(forge.open(b"data\x17").unwrap(), b"data");
    assert_eq!(seal_all(&mut forge.layer, b"1").len(), 5 + 1 + 17);
    assert_eq!(forge.open(&KEY_UPDATE_REQUESTED).unwrap(), b"");
    forge.client.update().ok().unwrap();
    assert_eq!(forge.open(&KEY_UPDATE_REQUESTED).unwrap(), b"");
    forge.client.update().ok().unwrap();
    assert_eq!(seal_all(&mut forge.layer, b"1").len(), (5 + 5 + 17) + (5 + 1 + 17), "one answer for both");
}

#[test]
fn a_key_is_replaced_after_8_million_records() {
    for suite in Suite::ALL {
        let (client, server) = connected(suite);
        let (mut layer, _) = server.convert();
        drop(client);
        layer.skip_sealed((1 << 23) - 1);
        assert_eq!(seal_all(&mut layer, b"1").len(), 5 + 1 + 17);
        assert_eq!(seal_all(&mut layer, b"1").len(), (5 + 5 + 17) + (5 + 1 + 17));
        assert_eq!(seal_all(&mut layer, b"1").len(), 5 + 1 + 17);
    }
}

#[test]
fn the_client_follows_our_key_update() {
    for suite in Suite::ALL {
        let (mut client, mut layer) = pair(suite);
        for round in 0..5_u8 {
            layer.update_soon();
            assert_eq!(receive(&mut client, &seal_all(&mut layer, &[round; 3])), [round; 3]);
        }
    }
}

#[test]
fn padding_is_taken_off() {
    let mut forge = Forge::new();
    assert_eq!(forge.open(b"padded\x17\0\0\0\0").unwrap(), b"padded");
    assert_eq!(forge.open(b"ends in zeros\0\0\x17").unwrap(), b"ends in zeros\0\0");
    let full = [vec![9; MAX_PLAINTEXT], vec![23]].concat();
    assert_eq!(forge.open(&full).unwrap().len(), MAX_PLAINTEXT);
    let padded = [vec![9, 23], vec![0; MAX_PLAINTEXT - 1]].concat();
    assert_eq!(forge.open(&padded).unwrap(), [9]);
}

#[test]
fn what_must_not_be_in_a_record_ends_the_connection() {
    assert_eq!(Forge::alert(b""), Alert::UnexpectedMessage, "nothing");
    assert_eq!(Forge::alert(b"\0\0\0"), Alert::UnexpectedMessage, "padding only");
    assert_eq!(Forge::alert(b"x\x14"), Alert::UnexpectedMessage, "change_cipher_spec");
    assert_eq!(Forge::alert(b"x\x63"), Alert::UnexpectedMessage, "an unknown type");
    assert_eq!(Forge::alert(b"\x16"), Alert::UnexpectedMessage, "an empty handshake record");
    assert_eq!(Forge::alert(b"\x15"), Alert::DecodeError, "an empty alert");
    assert_eq!(Forge::alert(b"\x01\x15"), Alert::DecodeError, "half an alert");
    assert_eq!(Forge::alert(b"\x01\x00\x01\x00\x15"), Alert::DecodeError, "two alerts");
    assert_eq!(Forge::alert(b"\x01\x00\x00\x00\x16"), Alert::UnexpectedMessage, "a ClientHello");
    assert_eq!(Forge::alert(b"\x18\x00\x00\x01\x02\x16"), Alert::IllegalParameter, "an unknown request");
    assert_eq!(Forge::alert(b"\x18\x00\x00\x01\x16"), Alert::UnexpectedMessage, "half a key update");
    assert_eq!(Forge::alert(b"\x18\x00\x00\x01\x00\x18\x00\x00\x01\x00\x16"), Alert::UnexpectedMessage, "two at once");
    let long = [vec![9; MAX_PLAINTEXT + 1], vec![23]].concat();
    assert_eq!(Forge::alert(&long), Alert::RecordOverflow, "more than a record carries");
}

#[test]
fn what_is_no_encrypted_record_ends_the_connection() {
    let alert = |bytes: &[u8]| match Forge::new().layer.open(&mut bytes.to_vec()) {
        Err(Fault::Peer(alert, _)) => alert,
        other => panic!("{other:?}"),
    };
    assert_eq!(alert(b"GET / HTTP/1.1"), Alert::UnexpectedMessage);
    assert_eq!(alert(b"\x15"), Alert::UnexpectedMessage, "an alert in the clear");
    assert_eq!(alert(b"\x14\x03\x03\x00\x01\x01"), Alert::UnexpectedMessage);
    assert_eq!(alert(b"\x17\x03\x03\x41\x01"), Alert::RecordOverflow);
    assert_eq!(alert(b"\x17\x03\x03\x00\x00"), Alert::BadRecordMac);
    assert_eq!(alert(b"\x17\x03\x03\x00\x10aaaaaaaaaaaaaaaa"), Alert::BadRecordMac);
    assert_eq!(Forge::new().layer.open(&mut b"\x17\x03\x03\x41\x00".to_vec()), Ok(Opened::Partial));
}

#[test]
fn records_out_of_order_or_twice_end_the_connection() {
    let (mut client, mut layer) = pair(Suite::ChaCha20Poly1305);
    let mut first = say(&mut client, b"first");
    let mut again = first.clone();
    assert_eq!(open_all(&mut layer, &mut first), b"first");
    assert!(matches!(layer.open(&mut again), Err(Fault::Peer(Alert::BadRecordMac, _))));
    let (mut client, mut layer) = pair(Suite::ChaCha20Poly1305);
    say(&mut client, b"lost");
    assert!(matches!(layer.open(&mut say(&mut client, b"next")), Err(Fault::Peer(Alert::BadRecordMac, _))));
}

#[test]
fn records_and_key_updates_that_bring_nothing_are_bounded() {
    let mut forge = Forge::new();
    for _ in 0..32 {
        assert_eq!(forge.open(b"\x17\0\0").unwrap(), b"");
    }
    assert_eq!(forge.open(b"x\x17").unwrap(), b"x");
    for _ in 0..32 {
        assert_eq!(forge.open(b"\x01\x5a\x15").unwrap(), b"", "user_canceled");
    }
    assert!(matches!(forge.open(b"\x17"), Err(Fault::Peer(Alert::UnexpectedMessage, _))));
    let mut forge = Forge::new();
    for _ in 0..32 {
        forge.open(&KEY_UPDATE).unwrap();
        forge.client.update().ok().unwrap();
    }
    assert!(matches!(forge.open(&KEY_UPDATE), Err(Fault::Peer(Alert::UnexpectedMessage, _))));
}

#[test]
fn each_end_closes_its_own_direction() {
    let (mut client, mut layer) = pair(Suite::Aes256Gcm);
    client.send_close_notify();
    let mut bytes = sent(&mut client);
    assert_eq!(layer.open(&mut bytes).unwrap(), Opened::Closed { consumed: bytes.len() });
    let mut ignored = *b"whatever comes after it";
    assert_eq!(layer.open(&mut ignored).unwrap(), Opened::Closed { consumed: ignored.len() });
    assert_eq!(receive(&mut client, &seal_all(&mut layer, b"still here")), b"still here");
    let mut out = Vec::new();
    layer.seal_close(&mut out);
    client.read_tls(&mut out.as_slice()).unwrap();
    assert!(client.process_new_packets().unwrap().peer_has_closed());
    let once = out.len();
    layer.seal_close(&mut out);
    assert_eq!(out.len(), once, "said once");
    assert_eq!(layer.seal(b"more", &mut out), Err(Fault::Over));
    assert_eq!(out.len(), once);
}

#[test]
fn the_client_is_told_what_is_wrong() {
    let (mut client, mut layer) = pair(Suite::Aes128Gcm);
    let mut record = say(&mut client, b"text");
    record[HEADER] ^= 1;
    let fault = layer.open(&mut record).unwrap_err();
    let mut out = Vec::new();
    layer.seal_alert(fault, &mut out);
    client.read_tls(&mut out.as_slice()).unwrap();
    let told = client.process_new_packets().unwrap_err();
    assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
    assert_eq!(layer.seal(b"more", &mut out), Err(Fault::Over));
}

#[test]
fn an_alert_of_the_client_is_the_end_and_is_not_answered() {
    let mut forge = Forge::new();
    let fault = forge.open(b"\x02\x50\x15").unwrap_err();
    assert_eq!(fault, Fault::Alerted(80));
    let mut out = Vec::new();
    forge.layer.seal_alert(fault, &mut out);
    assert!(out.is_empty());
}

#[test]
fn nothing_of_a_key_is_printed() {
    let (_, server) = connected(Suite::Aes128Gcm);
    let told = format!("{:?}", server.secrets);
    assert_eq!(told, "Some(TrafficSecrets)");
    let (layer, _) = server.convert();
    let told = format!("{layer:?}");
    assert!(told.len() < 150 && !told.contains('['), "{told}");
}
