//! A connection leaves rustls: what goes on with it is a record layer.

use super::keys::{Secret, Suite, TrafficKey};
use super::layer::{Flags, RecordLayer};
use super::secrets::TrafficSecrets;
use super::state::MAX_UNSENT;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CipherSuite, ConnectionTrafficSecrets, ProtocolVersion};

/// Key updates before a connection leaves rustls are retraced up to this many: a few, as a rule none.
const MAX_UPDATES: usize = 256;
/// Steps of rustls until it has nothing more to say: far more than there are.
const MAX_STEPS: usize = 64;

/// What became of a connection `C`.
pub(crate) enum Conversion<C> {
    /// It is a record layer now. These bytes go out first.
    Converted(Box<RecordLayer>, Vec<u8>),
    /// It cannot be, and goes on as it was, once these bytes are out.
    Stays(C, Vec<u8>),
    /// It is lost. There is no known way to this.
    Broken(&'static str),
}

/// Takes a connection out of rustls whose handshake is over. What was received of it and not given to rustls stays with the
/// caller, and so does plaintext; rustls must hold none of it. `peer_closed`: it has said close_notify. The connection
/// itself must not have said it.
pub(crate) fn convert(
    mut connection: Box<UnbufferedServerConnection>,
    secrets: &TrafficSecrets,
    peer_closed: bool,
) -> Conversion<Box<UnbufferedServerConnection>> {
    let Some(suite) = suite_of(&connection) else { return Conversion::Stays(connection, Vec::new()) };
    let mut unsent = Vec::new();
    if !settle(&mut connection, &mut unsent) {
        return Conversion::Stays(connection, unsent);
    }
    // Consumes the connection also when it fails; all that it fails for has been looked at.
    let Ok((extracted, _)) = connection.dangerous_into_kernel_connection() else {
        return Conversion::Broken("rustls does not give its keys away");
    };
    let find = |secret: &Secret, key: &ConnectionTrafficSecrets| retrace(suite, secret, key);
    let (sent, received) = (find(&secrets.server, &extracted.tx.1), find(&secrets.client, &extracted.rx.1));
    let Some((write, read)) = sent.zip(received) else {
        return Conversion::Broken("the keys of rustls do not come of the secrets that it told");
    };
    let flags = Flags { read_closed: peer_closed, ..Flags::default() };
    match RecordLayer::new(suite, (read, extracted.rx.0), (write, extracted.tx.0), flags) {
        Some(layer) => Conversion::Converted(Box::new(layer), unsent),
        None => Conversion::Broken("no key could be made"),
    }
}

fn suite_of(connection: &UnbufferedServerConnection) -> Option<Suite> {
    if connection.is_handshaking() || connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return None;
    }
    match connection.negotiated_cipher_suite()?.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(Suite::Aes128Gcm),
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Some(Suite::Aes256Gcm),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some(Suite::ChaCha20Poly1305),
        _ => None,
    }
}

/// Gets all out of rustls that it has to send, also its answer to a key update, which it keeps until there is something to
/// send after it. `false`: it is not between two records.
fn settle(connection: &mut UnbufferedServerConnection, unsent: &mut Vec<u8>) -> bool {
    let mut asked = false;
    for _ in 0..MAX_STEPS {
        let UnbufferedStatus { state, .. } = connection.process_tls_records(&mut []);
        match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                let start = unsent.len();
                let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else { return false };
                if start + size.required_size > MAX_UNSENT {
                    return false;
                }
                unsent.resize(start + size.required_size, 0);
                match data.encode(&mut unsent[start..]) {
                    Ok(written) => unsent.truncate(start + written),
                    Err(_) => return false,
                }
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::WriteTraffic(_)) if asked => return true,
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                // There is no room for it, so it is not sealed; but what goes before it comes out.
                asked = matches!(traffic.encrypt(&[0], &mut []), Err(EncryptError::InsufficientSize(_)));
                if !asked {
                    return false;
                }
            }
            // Edge-triggered; the caller has been told.
            Ok(ConnectionState::PeerClosed) => {}
            _ => return false,
        }
    }
    false
}

/// The secret from which this key is derived: the one that was told, or a later one.
fn retrace(suite: Suite, first: &Secret, extracted: &ConnectionTrafficSecrets) -> Option<Secret> {
    let (key, iv) = match (suite, extracted) {
        (Suite::Aes128Gcm, ConnectionTrafficSecrets::Aes128Gcm { key, iv })
        | (Suite::Aes256Gcm, ConnectionTrafficSecrets::Aes256Gcm { key, iv })
        | (Suite::ChaCha20Poly1305, ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) => (key, iv),
        _ => return None,
    };
    let mut secret = Secret::new(first.as_bytes())?;
    for _ in 0..=MAX_UPDATES {
        let derived = TrafficKey::derive(suite, &secret).ok()?;
        let same_key = verify_slices_are_equal(derived.key(), key.as_ref()).is_ok();
        if same_key && verify_slices_are_equal(&derived.iv, iv.as_ref()).is_ok() {
            return Some(secret);
        }
        secret = secret.next(suite).ok()?;
    }
    None
}
