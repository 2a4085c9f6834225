//! RFC 8448, section 3: a handshake with all its keys.

use super::super::keys::{Secret, Suite, TrafficKey};
use super::super::layer::{Flags, Opened, RecordLayer};

const SUITE: Suite = Suite::Aes128Gcm;
const CLIENT_SECRET: &str = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
const SERVER_SECRET: &str = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
const CLIENT_DATA: &str = "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a\
     6292a2977014bd1e3deae63aeebb21694915e4";
const SERVER_DATA: &str = "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8fcc49c4bf2\
     e5f0a21c0047c2abf332540dd032e167c2955d";
const CLIENT_ALERT: &str = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";
const SERVER_ALERT: &str = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn secret(hex: &str) -> Secret {
    Secret::new(&bytes(hex)).unwrap()
}

#[test]
fn keys_are_derived_as_in_rfc_8448() {
    let client = TrafficKey::derive(SUITE, &secret(CLIENT_SECRET)).ok().unwrap();
    assert_eq!(client.key(), bytes("17422dda596ed5d9acd890e3c63f5051"));
    assert_eq!(client.iv.as_slice(), bytes("5b78923dee08579033e523d9"));
    let server = TrafficKey::derive(SUITE, &secret(SERVER_SECRET)).ok().unwrap();
    assert_eq!(server.key(), bytes("9f02283b6c9c07efc26bb9f2ac92e356"));
    assert_eq!(server.iv.as_slice(), bytes("cf782b88dd83549aadf1e984"));
}

#[test]
fn records_are_those_of_rfc_8448() {
    // The server has sent one record before, with a ticket.
    let layer = RecordLayer::new(SUITE, (secret(CLIENT_SECRET), 0), (secret(SERVER_SECRET), 1), Flags::default());
    let mut layer = layer.unwrap();
    let text: Vec<u8> = (0..50).collect();
    let mut record = bytes(CLIENT_DATA);
    let opened = layer.open(&mut record).unwrap();
    assert_eq!(opened, Opened::Record { consumed: record.len(), plaintext: 5..55 });
    assert_eq!(record[5..55], text);
    let mut out = Vec::new();
    assert_eq!(layer.seal(&text, &mut out).unwrap(), 50);
    assert_eq!(out, bytes(SERVER_DATA));
    let mut alert = bytes(CLIENT_ALERT);
    assert_eq!(layer.open(&mut alert).unwrap(), Opened::Closed { consumed: alert.len() });
    out.clear();
    layer.seal_close(&mut out);
    assert_eq!(out, bytes(SERVER_ALERT));
}

#[test]
fn a_secret_of_another_suite_is_refused() {
    let long = || Secret::new(&[7; 48]).unwrap();
    assert!(RecordLayer::new(SUITE, (long(), 0), (long(), 0), Flags::default()).is_none());
    assert!(Secret::new(&[7; 49]).is_none());
}
