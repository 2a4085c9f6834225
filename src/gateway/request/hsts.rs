//! Strict-Transport-Security (RFC 6797): said once, with answers over TLS, unless the app says it.

use bytes::BytesMut;
use http::header::STRICT_TRANSPORT_SECURITY;
use http::{HeaderMap, HeaderValue};
use std::time::Duration;

/// For how many seconds a browser asks for https only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Hsts(u64);

const NAME: &[u8] = b"Strict-Transport-Security";

impl Hsts {
    pub(in crate::gateway) fn of(time: Duration) -> Hsts {
        Hsts(time.as_secs())
    }

    /// Adds the line to a head that is being written.
    pub(in crate::gateway) fn write(self, out: &mut BytesMut) {
        out.extend_from_slice(NAME);
        out.extend_from_slice(format!(": max-age={}\r\n", self.0).as_bytes());
    }

    pub(in crate::gateway) fn is_name(name: &[u8]) -> bool {
        name.eq_ignore_ascii_case(NAME)
    }

    pub(in crate::gateway) fn insert(self, fields: &mut HeaderMap) {
        if !fields.contains_key(STRICT_TRANSPORT_SECURITY) {
            fields.insert(STRICT_TRANSPORT_SECURITY, self.value());
        }
    }

    pub(in crate::gateway) fn value(self) -> HeaderValue {
        // Letters, digits and signs.
        HeaderValue::try_from(format!("max-age={}", self.0)).unwrap_or(HeaderValue::from_static("max-age=0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_the_app_stays() {
        let hsts = Hsts::of(Duration::from_secs(3600));
        let mut fields = HeaderMap::new();
        hsts.insert(&mut fields);
        assert_eq!(fields[STRICT_TRANSPORT_SECURITY], "max-age=3600");
        fields.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=1"));
        hsts.insert(&mut fields);
        assert_eq!(fields[STRICT_TRANSPORT_SECURITY], "max-age=1");
        let mut line = BytesMut::new();
        hsts.write(&mut line);
        assert_eq!(&line[..], b"Strict-Transport-Security: max-age=3600\r\n");
    }
}
