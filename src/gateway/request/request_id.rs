//! The number of a request, by which logs of several programs are put together: `X-Request-Id`, and `traceparent`
//! (W3C Trace Context).

use std::fmt;

/// The field's name, as HTTP/2 has it.
pub(in crate::gateway) const FIELD: &str = "x-request-id";

/// The longest id that is kept, in bytes. A UUID has 36.
const LONGEST: usize = 64;

/// A request's id; it may be empty, where none is wanted.
#[derive(Clone, Copy)]
pub(in crate::gateway) struct RequestId {
    bytes: [u8; LONGEST],
    len: u8,
}

impl RequestId {
    pub(in crate::gateway) const NONE: RequestId = RequestId { bytes: [0; LONGEST], len: 0 };

    /// A new one: 128 random bits in hexadecimal digits. It is no secret.
    pub(in crate::gateway) fn fresh() -> RequestId {
        let mut id = RequestId::NONE;
        hex(u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..)), &mut id.bytes[..32]);
        id.len = 32;
        id
    }

    /// Somebody else's, if it may stand in a log and in a header as it is.
    pub(in crate::gateway) fn kept(value: &[u8]) -> Option<RequestId> {
        let is_good = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:+/=@~".contains(b);
        if value.is_empty() || value.len() > LONGEST || !value.iter().all(is_good) {
            return None;
        }
        let mut id = RequestId::NONE;
        id.bytes[..value.len()].copy_from_slice(value);
        id.len = value.len() as u8;
        Some(id)
    }

    pub(in crate::gateway) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(in crate::gateway) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub(in crate::gateway) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn hex(number: u128, out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in out.chunks_exact_mut(2).rev().zip(number.to_le_bytes()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// A trace that begins here, sampled: an app that samples by its parent would else drop every trace.
pub(in crate::gateway) fn fresh_traceparent() -> [u8; 55] {
    let mut value = *b"00-00000000000000000000000000000000-0000000000000000-01";
    // All zeros mean that there is none.
    hex(u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(1..)), &mut value[3..35]);
    hex(u128::from(fastrand::u64(1..)), &mut value[36..52]);
    value
}

/// Whether a value of `traceparent` names a trace (W3C Trace Context, section 3.2).
pub(in crate::gateway) fn is_traceparent(value: &[u8]) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &[u8]| part.iter().all(|&b| b == b'0');
    let Some((version, rest)) = value.split_at_checked(2) else { return false };
    // A later version may have more behind a dash.
    let fits = value.len() == 55 || (version != b"00" && value.get(55) == Some(&b'-'));
    fits && is_hex(version)
        && version != b"ff"
        && rest[0] == b'-'
        && is_hex(&rest[1..33])
        && !is_zero(&rest[1..33])
        && rest[33] == b'-'
        && is_hex(&rest[34..50])
        && !is_zero(&rest[34..50])
        && rest[50] == b'-'
        && is_hex(&rest[51..53])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_kept_when_it_is_harmless() {
        let fresh = RequestId::fresh();
        assert_eq!(fresh.as_str().len(), 32);
        assert!(fresh.as_bytes().iter().all(u8::is_ascii_hexdigit));
        assert_ne!(fresh.as_bytes(), RequestId::fresh().as_bytes());
        for good in
            ["a", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "Root=1-5759e988-bd862e3fe1be46a994272793", &"x".repeat(64)]
        {
            assert_eq!(RequestId::kept(good.as_bytes()).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a,b", "a\"b", "a\u{e9}", "a;b", &"x".repeat(65)] {
            assert!(RequestId::kept(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn digits_are_in_their_order() {
        let number = 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210;
        let mut out = [0; 32];
        hex(number, &mut out);
        assert_eq!(std::str::from_utf8(&out).unwrap(), format!("{number:032x}"));
        hex(0x00f0, &mut out[..16]);
        assert_eq!(&out[..16], b"00000000000000f0");
    }

    #[test]
    fn a_trace_is_named_or_not() {
        assert!(is_traceparent(&fresh_traceparent()));
        assert!(is_traceparent(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        assert!(is_traceparent(b"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"));
        for bad in [
            &b""[..],
            b"00",
            b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
        ] {
            assert!(!is_traceparent(bad), "{}", String::from_utf8_lossy(bad));
        }
    }
}
