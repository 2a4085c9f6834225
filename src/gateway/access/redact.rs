//! Secrets in queries: which parameters are logged without their value.

use crate::gateway::request::socketio::percent_decoded;

/// Names of query parameters, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redact(Vec<Vec<u8>>);

/// Stands for a value.
const REDACTED: &[u8] = b"REDACTED";

impl Redact {
    /// Session ids, OAuth 2 and OpenID Connect, signed addresses of object stores, and what people call passwords and keys.
    pub(crate) const DEFAULT: [&str; 24] = [
        "access_token",
        "api_key",
        "apikey",
        "auth",
        "client_secret",
        "code",
        "id_token",
        "jwt",
        "key",
        "passwd",
        "password",
        "pwd",
        "refresh_token",
        "secret",
        "session",
        "session_id",
        "sid",
        "sig",
        "signature",
        "state",
        "ticket",
        "token",
        "x-amz-security-token",
        "x-amz-signature",
    ];

    /// Case does not count.
    pub(crate) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Redact {
        Redact(names.into_iter().map(|name| name.to_ascii_lowercase().into_bytes()).collect())
    }

    /// Gives out a target, or an address, in pieces, without the secrets of its query.
    pub(super) fn pieces<'a>(&self, target: &'a [u8], mut give: impl FnMut(&'a [u8])) {
        let Some(mark) = memchr::memchr2(b'?', b'#', target).filter(|_| !self.0.is_empty()) else {
            return give(target);
        };
        let (path, mut rest) = target.split_at(mark + 1);
        give(path);
        while !rest.is_empty() {
            let end = rest.iter().position(|b| matches!(b, b'&' | b';' | b'#')).unwrap_or(rest.len());
            let (pair, behind) = rest.split_at(end);
            match memchr::memchr(b'=', pair).map(|sign| pair.split_at(sign + 1)) {
                Some((name, value)) if !value.is_empty() && self.has(name.strip_suffix(b"=").unwrap_or(name)) => {
                    give(name);
                    give(REDACTED);
                }
                _ => give(pair),
            }
            let (separator, after) = behind.split_at(behind.len().min(1));
            give(separator);
            rest = after;
        }
    }

    fn has(&self, raw: &[u8]) -> bool {
        // `token[]`, `token%5B0%5D`: a list's.
        let bracket = raw.iter().position(|&b| b == b'[').or_else(|| memchr::memmem::find(raw, b"%5B"));
        let bracket = bracket.or_else(|| memchr::memmem::find(raw, b"%5b")).unwrap_or(raw.len());
        let raw = &raw[..bracket];
        let is = |name: &Vec<u8>| {
            raw.len() >= name.len()
                && raw.len() <= 3 * name.len()
                && percent_decoded(raw).map(|b| b.to_ascii_lowercase()).eq(name.iter().copied())
        };
        self.0.iter().any(is)
    }
}

impl Default for Redact {
    fn default() -> Redact {
        Redact::new(Redact::DEFAULT)
    }
}
