//! Secrets of TLS 1.3, and the keys that are derived of them (RFC 8446, section 7).

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf;
use zeroize::{Zeroize, Zeroizing};

/// Bytes by which a sealed record is longer than what is in it.
pub(super) const TAG: usize = MAX_TAG_LEN;
/// Bytes of the longest key.
const MAX_KEY: usize = 32;
/// Bytes of the longest secret.
const MAX_SECRET: usize = 48;

/// A cipher suite of TLS 1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suite {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Suite {
    pub(super) const ALL: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

    /// Its number in IANA's registry.
    pub(super) fn number(self) -> u16 {
        match self {
            Suite::Aes128Gcm => 0x1301,
            Suite::Aes256Gcm => 0x1302,
            Suite::ChaCha20Poly1305 => 0x1303,
        }
    }

    pub(super) fn of_number(number: u16) -> Option<Suite> {
        Suite::ALL.into_iter().find(|suite| suite.number() == number)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Suite::Aes128Gcm => "TLS13_AES_128_GCM_SHA256",
            Suite::Aes256Gcm => "TLS13_AES_256_GCM_SHA384",
            Suite::ChaCha20Poly1305 => "TLS13_CHACHA20_POLY1305_SHA256",
        }
    }

    fn aead(self) -> &'static Algorithm {
        match self {
            Suite::Aes128Gcm => &AES_128_GCM,
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Suite::Aes256Gcm => hkdf::HKDF_SHA384,
            Suite::Aes128Gcm | Suite::ChaCha20Poly1305 => hkdf::HKDF_SHA256,
        }
    }

    /// Bytes of its secrets.
    pub(super) fn secret_len(self) -> usize {
        match self {
            Suite::Aes256Gcm => MAX_SECRET,
            Suite::Aes128Gcm | Suite::ChaCha20Poly1305 => 32,
        }
    }
}

/// A traffic secret. Neither printed nor copied, and wiped in the end.
pub(super) struct Secret {
    bytes: [u8; MAX_SECRET],
    len: usize,
}

impl Secret {
    /// `None`: longer than any suite's.
    pub(super) fn new(secret: &[u8]) -> Option<Secret> {
        let mut bytes = [0; MAX_SECRET];
        bytes.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(Secret { bytes, len: secret.len() })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The secret after a key update.
    pub(super) fn next(&self, suite: Suite) -> Result<Secret, Unspecified> {
        let mut next = Secret { bytes: [0; MAX_SECRET], len: suite.secret_len() };
        let out = next.bytes.get_mut(..next.len).ok_or(Unspecified)?;
        expand_label(suite, self, b"traffic upd", out)?;
        Ok(next)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// A key and the part of the nonces that stays the same.
pub(super) struct TrafficKey {
    key: Zeroizing<[u8; MAX_KEY]>,
    key_len: usize,
    pub(super) iv: [u8; NONCE_LEN],
}

impl TrafficKey {
    pub(super) fn derive(suite: Suite, secret: &Secret) -> Result<TrafficKey, Unspecified> {
        let (mut key, mut iv) = (Zeroizing::new([0; MAX_KEY]), [0; NONCE_LEN]);
        let key_len = suite.aead().key_len();
        expand_label(suite, secret, b"key", key.get_mut(..key_len).ok_or(Unspecified)?)?;
        expand_label(suite, secret, b"iv", &mut iv)?;
        Ok(TrafficKey { key, key_len, iv })
    }

    pub(super) fn key(&self) -> &[u8] {
        self.key.get(..self.key_len).unwrap_or_default()
    }
}

/// How many bytes are wanted of HKDF.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446, section 7.1).
fn expand_label(suite: Suite, secret: &Secret, label: &[u8], out: &mut [u8]) -> Result<(), Unspecified> {
    const PREFIX: &[u8] = b"tls13 ";
    if secret.len != suite.secret_len() {
        return Err(Unspecified);
    }
    let length = u16::try_from(out.len()).map_err(|_| Unspecified)?.to_be_bytes();
    let label_length = [u8::try_from(PREFIX.len() + label.len()).map_err(|_| Unspecified)?];
    let info = [&length[..], &label_length, PREFIX, label, &[0]];
    let key = hkdf::Prk::new_less_safe(suite.hkdf(), secret.as_bytes());
    key.expand(&info, Length(out.len()))?.fill(out)
}

/// What protects one direction of a connection.
pub(super) struct Protection {
    suite: Suite,
    secret: Secret,
    iv: [u8; NONCE_LEN],
    key: LessSafeKey,
    /// The next record's number.
    sequence: u64,
}

impl Protection {
    pub(super) fn new(suite: Suite, secret: Secret, sequence: u64) -> Result<Protection, Unspecified> {
        let derived = TrafficKey::derive(suite, &secret)?;
        let key = LessSafeKey::new(UnboundKey::new(suite.aead(), derived.key())?);
        Ok(Protection { suite, secret, iv: derived.iv, key, sequence })
    }

    pub(super) fn suite(&self) -> Suite {
        self.suite
    }

    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Goes on with the next key.
    pub(super) fn update(&mut self) -> Result<(), Unspecified> {
        *self = Protection::new(self.suite, self.secret.next(self.suite)?, 0)?;
        Ok(())
    }

    /// Opens a record in place; gives what was in it. A record that was not sealed by the peer spends no number.
    pub(super) fn open<'a>(&mut self, header: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], Unspecified> {
        let next = self.sequence.checked_add(1).ok_or(Unspecified)?;
        let opened = self.key.open_in_place(self.nonce(), Aad::from(header), sealed)?;
        self.sequence = next;
        Ok(opened)
    }

    /// Seals in place; gives the tag. The number is spent, whatever becomes of the record.
    pub(super) fn seal(&mut self, header: &[u8], plaintext: &mut [u8]) -> Result<[u8; TAG], Unspecified> {
        let nonce = self.nonce();
        self.sequence = self.sequence.checked_add(1).ok_or(Unspecified)?;
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(header), plaintext)?;
        tag.as_ref().try_into().map_err(|_| Unspecified)
    }

    /// The nonce of the next record (RFC 8446, section 5.3).
    fn nonce(&self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce.iter_mut().rev().zip(self.sequence.to_be_bytes().iter().rev()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}
