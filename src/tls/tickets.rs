//! Session tickets, under keys that go from one process to its successor: a session that began before an upgrade is resumed after it.
//!
//! A ticket is `version, name of the key, nonce, ciphertext`. It is bound to the policy of the listener that gave it (associated
//! data): one that was given where other rules hold is not taken. Two processes use one key while the older finishes its
//! handshakes, so the cipher is one that a repeated nonce does not break (AES-256-GCM-SIV, RFC 8452).
//!
//! Keys are in no log, no `Debug` and no file. They leave the process in the handoff only, in a frame of their own.

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Of a ticket and of what goes to a successor. A later one may have other ciphers.
const VERSION: u8 = 1;
/// How long a key is the one that tickets are made with, in seconds.
pub(crate) const KEY_PERIOD: i64 = 6 * 3600;
/// Keys that tickets are accepted with.
const KEPT: usize = 3;
const NAME_LEN: usize = 16;
const SECRET_LEN: usize = 32;
const HEAD_LEN: usize = 1 + NAME_LEN + NONCE_LEN;
const TAG_LEN: usize = 16;
/// One key on its way: name, time, secret.
const EXPORTED_LEN: usize = NAME_LEN + 8 + SECRET_LEN;
/// rustls' tickets hold a session and a certificate chain at most.
const LONGEST_TICKET: usize = 64 * 1024;

/// What a ticket is bound to.
pub(crate) type PolicyId = [u8; 32];

struct Key {
    name: [u8; NAME_LEN],
    /// When it became the one in use; since the epoch, in seconds.
    since: i64,
    secret: Zeroizing<[u8; SECRET_LEN]>,
    cipher: LessSafeKey,
}

impl Key {
    fn new(since: i64) -> Option<Key> {
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        let mut name = [0; NAME_LEN];
        rand::fill(secret.as_mut()).ok()?;
        rand::fill(&mut name).ok()?;
        Key::from_parts(name, since, secret)
    }

    fn from_parts(name: [u8; NAME_LEN], since: i64, secret: Zeroizing<[u8; SECRET_LEN]>) -> Option<Key> {
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, secret.as_ref()).ok()?);
        Some(Key { name, since, secret, cipher })
    }

    fn is_alive(&self, now: i64) -> bool {
        now.saturating_sub(self.since) < KEY_PERIOD.saturating_mul(KEPT as i64)
    }
}

/// The keys of all listeners of this process, the newest first.
pub(crate) struct TicketKeys(ArcSwap<Vec<Arc<Key>>>);

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKeys({})", self.0.load().len())
    }
}

impl TicketKeys {
    /// With one new key. Without a source of randomness there is none, and no ticket.
    pub(crate) fn new(now: i64) -> TicketKeys {
        TicketKeys(ArcSwap::from_pointee(Key::new(now).map(Arc::new).into_iter().collect()))
    }

    /// A new key every [`KEY_PERIOD`]; the oldest go.
    pub(crate) fn rotate(&self, now: i64) {
        let keys = self.0.load_full();
        // Whoever has set the clock back has keys of the future: they count as new.
        let is_due = keys.first().is_none_or(|key| now.saturating_sub(key.since) >= KEY_PERIOD);
        let has_old = keys.iter().any(|key| !key.is_alive(now));
        if !is_due && !has_old {
            return;
        }
        let new = is_due.then(|| Key::new(now)).flatten().map(Arc::new);
        let kept = keys.iter().filter(|key| key.is_alive(now)).cloned();
        self.0.store(Arc::new(new.into_iter().chain(kept).take(KEPT).collect()));
    }

    /// For the successor.
    pub(crate) fn export(&self) -> Zeroizing<Vec<u8>> {
        let keys = self.0.load();
        let mut out = Zeroizing::new(Vec::with_capacity(1 + KEPT * EXPORTED_LEN));
        out.push(VERSION);
        for key in keys.iter() {
            out.extend_from_slice(&key.name);
            out.extend_from_slice(&key.since.to_le_bytes());
            out.extend_from_slice(key.secret.as_ref());
        }
        out
    }

    /// Those of a predecessor take the place of our own, which no client knows yet. Tells how many there are.
    ///
    /// # Errors
    /// They are not understood: a session begins anew then, nothing else is lost.
    pub(crate) fn import(&self, bytes: &[u8], now: i64) -> Result<usize, &'static str> {
        let (version, keys) = bytes.split_first().ok_or("there are none")?;
        if *version != VERSION {
            return Err("they are of another version");
        }
        if !keys.len().is_multiple_of(EXPORTED_LEN) || keys.len() > KEPT * EXPORTED_LEN {
            return Err("they are cut wrongly");
        }
        let read = |bytes: &[u8]| {
            let (name, rest) = bytes.split_first_chunk::<NAME_LEN>()?;
            let (since, secret) = rest.split_first_chunk::<8>()?;
            let secret = Zeroizing::new(<[u8; SECRET_LEN]>::try_from(secret).ok()?);
            Key::from_parts(*name, i64::from_le_bytes(*since).min(now), secret)
        };
        let found: Vec<Arc<Key>> = keys.chunks_exact(EXPORTED_LEN).filter_map(read).map(Arc::new).collect();
        let found: Vec<Arc<Key>> = found.into_iter().filter(|key| key.is_alive(now)).collect();
        let count = found.len();
        if count > 0 {
            self.0.store(Arc::new(found));
        }
        self.rotate(now);
        Ok(count)
    }

    /// What makes and takes the tickets of one policy.
    pub(crate) fn ticketer(self: &Arc<TicketKeys>, policy: PolicyId) -> Arc<dyn ProducesTickets> {
        Arc::new(Ticketer { keys: self.clone(), policy })
    }
}

#[derive(Debug)]
struct Ticketer {
    keys: Arc<TicketKeys>,
    policy: PolicyId,
}

impl Ticketer {
    /// Version, key and policy: a ticket that was changed, or was given elsewhere, does not open.
    fn associated(&self, name: &[u8; NAME_LEN]) -> [u8; 1 + NAME_LEN + 32] {
        let mut data = [VERSION; 1 + NAME_LEN + 32];
        let (_, rest) = data.split_at_mut(1);
        let (front, back) = rest.split_at_mut(NAME_LEN);
        front.copy_from_slice(name);
        back.copy_from_slice(&self.policy);
        data
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        !self.keys.0.load().is_empty()
    }

    /// Until the key of a ticket that is made just before the next key comes is dropped.
    fn lifetime(&self) -> u32 {
        u32::try_from(KEY_PERIOD * (KEPT as i64 - 1)).unwrap_or_default()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys.0.load();
        let key = keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(HEAD_LEN + plain.len() + TAG_LEN);
        ticket.push(VERSION);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let (_, text) = ticket.split_at_mut(HEAD_LEN);
        let aad = Aad::from(self.associated(&key.name));
        let tag = key.cipher.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, text).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        (ticket.len() <= LONGEST_TICKET).then_some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > LONGEST_TICKET {
            return None;
        }
        let (version, rest) = ticket.split_first()?;
        let (name, rest) = rest.split_first_chunk::<NAME_LEN>()?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>()?;
        if *version != VERSION {
            return None;
        }
        let keys = self.keys.0.load();
        // Names are public: how long this takes tells nothing.
        let key = keys.iter().find(|key| key.name == *name)?;
        let mut text = text.to_vec();
        let aad = Aad::from(self.associated(name));
        let plain = key.cipher.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut text).ok()?.len();
        text.truncate(plain);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_ticket_opens_under_its_policy_only_and_unchanged() {
        let keys = Arc::new(TicketKeys::new(NOW));
        let ticketer = keys.ticketer([1; 32]);
        let ticket = ticketer.encrypt(b"session").unwrap();
        assert_eq!(ticketer.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(keys.ticketer([2; 32]).decrypt(&ticket), None, "another policy");
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(ticketer.decrypt(&changed), None, "byte {at}");
            assert_eq!(ticketer.decrypt(&ticket[..at]), None, "cut at {at}");
        }
        assert_ne!(ticket, ticketer.encrypt(b"session").unwrap());
    }

    #[test]
    fn three_keys_are_kept_each_for_six_hours() {
        let keys = Arc::new(TicketKeys::new(NOW));
        let ticketer = keys.ticketer([0; 32]);
        let ticket = ticketer.encrypt(b"x").unwrap();
        keys.rotate(NOW + KEY_PERIOD - 1);
        assert_eq!(keys.0.load().len(), 1);
        keys.rotate(NOW + KEY_PERIOD);
        keys.rotate(NOW + 2 * KEY_PERIOD);
        assert!(ticketer.decrypt(&ticket).is_some(), "within its lifetime of {} s", ticketer.lifetime());
        keys.rotate(NOW + 3 * KEY_PERIOD);
        assert!(ticketer.decrypt(&ticket).is_none());
        assert_eq!(keys.0.load().len(), KEPT);
        // A long sleep leaves none of the old.
        keys.rotate(NOW + 30 * KEY_PERIOD);
        assert_eq!(keys.0.load().len(), 1);
    }

    #[test]
    fn a_successor_opens_the_tickets_of_its_predecessor() {
        let old = Arc::new(TicketKeys::new(NOW));
        let first = old.ticketer([7; 32]).encrypt(b"first").unwrap();
        old.rotate(NOW + KEY_PERIOD);
        let second = old.ticketer([7; 32]).encrypt(b"second").unwrap();
        let new = Arc::new(TicketKeys::new(NOW));
        assert_eq!(new.import(&old.export(), NOW + KEY_PERIOD + 5), Ok(2));
        assert_eq!(new.ticketer([7; 32]).decrypt(&first).as_deref(), Some(&b"first"[..]));
        assert_eq!(new.ticketer([7; 32]).decrypt(&second).as_deref(), Some(&b"second"[..]));
        let third = new.ticketer([7; 32]).encrypt(b"third").unwrap();
        assert!(old.ticketer([7; 32]).decrypt(&third).is_some(), "both use the same keys while both run");
    }

    #[test]
    fn what_is_no_key_is_refused_and_leaves_our_own() {
        let keys = Arc::new(TicketKeys::new(NOW));
        let ticket = keys.ticketer([0; 32]).encrypt(b"x").unwrap();
        let good = keys.export();
        for bytes in [&[][..], &[2], &good[..good.len() - 1], &[1; 1 + 4 * EXPORTED_LEN]] {
            assert!(keys.import(bytes, NOW).is_err());
        }
        assert_eq!(keys.import(&[VERSION], NOW), Ok(0));
        assert_eq!(keys.import(&good, NOW + 4 * KEY_PERIOD), Ok(0), "too old");
        let keys = Arc::new(TicketKeys::new(NOW));
        assert!(keys.import(&good, NOW).is_ok());
        assert!(keys.ticketer([0; 32]).decrypt(&ticket).is_some());
    }

    #[test]
    fn keys_are_not_in_debug() {
        let keys = Arc::new(TicketKeys::new(NOW));
        assert_eq!(format!("{:?}", keys), "TicketKeys(1)");
        assert!(!format!("{:?}", keys.ticketer([0; 32])).contains("secret"));
    }
}
