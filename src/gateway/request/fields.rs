//! Which fields pass: of requests, answers and trailers, by their names, whoever carries them.

use super::forwarding::{Forwarding, RequestIds};
use super::{passes, request_id};
use crate::gateway::http1::fields::list;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// What becomes of one request field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum FieldRule {
    Pass,
    /// It speaks of the connection it came on (RFC 9110, section 7.6.1).
    HopByHop,
    /// Only the proxy may say this.
    Forwarded,
    /// CGI-style servers (WSGI, Rack) would read it as the field that frames the message.
    Framing,
    /// It passes, and is looked into for loops.
    Passes,
    /// It has a `_`, which those servers read as `-`: it might be taken for any other field.
    Underscore,
}

/// Compares a field name with a lower-case one, as servers do that read `_` as `-`.
fn folds_to(name: &[u8], wanted: &str) -> bool {
    let fold = |b: u8| if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    name.len() == wanted.len() && name.iter().zip(wanted.bytes()).all(|(&a, b)| fold(a) == b)
}

/// The rule for a request field, by its name in any case and by what is set.
pub(in crate::gateway) fn rule(name: &[u8], forwarding: &Forwarding) -> FieldRule {
    let is_id = || name.len() == request_id::FIELD.len() && folds_to(name, request_id::FIELD);
    match request_field(name) {
        FieldRule::Pass if !forwarding.underscores && memchr::memchr(b'_', name).is_some() => FieldRule::Underscore,
        FieldRule::Pass if forwarding.request_id != RequestIds::Off && is_id() => FieldRule::Forwarded,
        rule => rule,
    }
}

/// Fields of a trace, which go with each other.
pub(in crate::gateway) fn is_of_trace(name: &[u8]) -> bool {
    match name.len() {
        10 => folds_to(name, "tracestate"),
        11 => folds_to(name, "traceparent"),
        _ => false,
    }
}

/// The rule for a request field, by its name in any case, whatever is set.
pub(in crate::gateway) fn request_field(name: &[u8]) -> FieldRule {
    let is = |wanted: &str| folds_to(name, wanted);
    let any = |of: &[&str], rule| if of.iter().any(|one| folds_to(name, one)) { rule } else { FieldRule::Pass };
    match name.len() {
        2 => any(&["te"], FieldRule::HopByHop),
        7 => any(&["upgrade"], FieldRule::HopByHop),
        8 => any(&[passes::FIELD], FieldRule::Passes),
        // WSGI servers on Unix sockets take these two (`PATH_INFO`, `SCRIPT_NAME`) as the path and the mount point.
        9 if memchr::memchr(b'_', name).is_some() && is("path-info") => FieldRule::Forwarded,
        11 if memchr::memchr(b'_', name).is_some() && is("script-name") => FieldRule::Forwarded,
        9 => any(&["x-real-ip", "forwarded"], FieldRule::Forwarded),
        10 => any(&["connection", "keep-alive"], FieldRule::HopByHop),
        11 => any(&["x-client-ip", "client-cert"], FieldRule::Forwarded),
        14 if is("http2-settings") => FieldRule::HopByHop,
        14 if memchr::memchr(b'_', name).is_some() && is("content-length") => FieldRule::Framing,
        14 => any(&["true-client-ip"], FieldRule::Forwarded),
        15 => any(&["x-forwarded-for", "x-forwarded-ssl", "front-end-https"], FieldRule::Forwarded),
        16 if is("proxy-connection") => FieldRule::HopByHop,
        16 => any(&["x-forwarded-host", "x-forwarded-port"], FieldRule::Forwarded),
        17 if memchr::memchr(b'_', name).is_some() && is("transfer-encoding") => FieldRule::Framing,
        17 => any(&["x-forwarded-proto", "client-cert-chain"], FieldRule::Forwarded),
        18 => any(&["x-forwarded-scheme", "x-forwarded-prefix", "x-forwarded-server"], FieldRule::Forwarded),
        19 => any(&["x-cluster-client-ip", "x-ssl-client-verify"], FieldRule::Forwarded),
        20 => any(&["x-forwarded-protocol", "x-ssl-client-subject"], FieldRule::Forwarded),
        24 => any(&["x-ssl-client-fingerprint"], FieldRule::Forwarded),
        _ => FieldRule::Pass,
    }
}

/// Fields of an answer that belong to the connection with the worker.
fn is_response_hop_by_hop(name: &[u8]) -> bool {
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
    match name.len() {
        2 => is("te"),
        7 => is("upgrade"),
        10 => is("connection") || is("keep-alive"),
        16 => is("proxy-connection"),
        _ => false,
    }
}

/// Whether a trailer field may be passed on. What frames, routes, authorizes or controls a message must stand in its
/// head (RFC 9110, section 6.5.1), and servers refuse bytes beyond ASCII in trailers that they take in heads.
pub(in crate::gateway) fn passes_as_trailer(name: &[u8], value: &[u8]) -> bool {
    const REFUSED: [&str; 25] = [
        "age",
        "authorization",
        "cache-control",
        "cookie",
        "date",
        "expect",
        "expires",
        "host",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
        "if-range",
        "location",
        "max-forwards",
        "pragma",
        "range",
        "set-cookie",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "vary",
        "www-authenticate",
        "x-request-id",
    ];
    let prefixed = |prefix: &str| name.len() >= prefix.len() && folds_to(&name[..prefix.len()], prefix);
    request_field(name) == FieldRule::Pass
        && !REFUSED.iter().any(|one| folds_to(name, one))
        && !["content-", "proxy-", "x-forwarded-"].iter().any(|prefix| prefixed(prefix))
        && value.iter().all(|b| matches!(b, b'\t' | b'\r' | b'\n' | b' '..=b'~'))
}

/// The same for a trailer of a request. Servers that read trailers as fields may read `_` as `-`.
pub(in crate::gateway) fn passes_as_request_trailer(name: &[u8], value: &[u8]) -> bool {
    !name.contains(&b'_') && passes_as_trailer(name, value)
}

/// Whether a `Connection` field of this head names the field. Hardly any message has such a list.
pub(in crate::gateway) fn is_nominated<'a>(
    nominates: bool,
    connection: impl Iterator<Item = &'a [u8]>,
    name: &[u8],
) -> bool {
    nominates && connection.flat_map(list).any(|token| folds_to(name, &String::from_utf8_lossy(token).to_lowercase()))
}

/// Whether an answer's field is passed on, by the status; `Connection` may name it still.
pub(in crate::gateway) fn response_field_passes(status: u16, name: &[u8]) -> bool {
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
    // Where no body can be, framing would lead a reader astray (RFC 9110, section 8.6; RFC 9112, section 6.1).
    let framed = match status {
        100..200 | 204 => is("content-length") || is("transfer-encoding"),
        304 => is("transfer-encoding"),
        _ => false,
    };
    !framed && !is_response_hop_by_hop(name)
}

/// The fields of a worker's head that are not passed on, where another reader has taken the head apart.
pub(in crate::gateway) fn dropped_from_response(status: u16, fields: &HeaderMap) -> Vec<HeaderName> {
    let connection = || fields.get_all(http::header::CONNECTION).iter().map(HeaderValue::as_bytes);
    let passes = |name: &[u8]| response_field_passes(status, name) && !is_nominated(true, connection(), name);
    fields.keys().filter(|name| !passes(name.as_str().as_bytes())).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_proxy_says_of_a_request_comes_in_no_trailer() {
        for name in [
            "X-Request-Id",
            "traceparent",
            "Tracestate",
            "X-Forwarded-For",
            "Client-Cert",
            "X-SSL-Client-Verify",
            "Host",
        ] {
            assert!(!passes_as_request_trailer(name.as_bytes(), b"a"), "{name}");
        }
        assert!(passes_as_request_trailer(b"X-Sum", b"a") && !passes_as_request_trailer(b"X_Sum", b"a"));
    }
}
