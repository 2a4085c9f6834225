//! `affinity` and `balance` of an app.

use super::error::{nearest, shown};
use super::fields::{Decoder, Field, Fields};
use super::schema::Kind as Takes;
use super::yaml::Value;
use crate::pool::affinity::{Affinity, Balance};

/// A path has hardly more segments that mean anything.
const LAST_SEGMENT: u64 = 32;

/// What keeps a client on its worker.
pub(super) fn affinity(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Affinity> {
    const WORDS: &[&str] = &["socket.io", "none", "client-address"];
    const HINTS: &[(&str, &str)] = &[
        ("socketio", "write socket.io"),
        ("sticky", "write socket.io, or {cookie: NAME}"),
        ("ip_hash", "write client-address"),
        ("ip", "write client-address"),
        ("source", "write client-address"),
        ("cookie", "write {cookie: NAME}"),
        ("header", "write {header: NAME}"),
        ("query", "write {query: NAME}"),
        ("path", "write {path: N}, the number of the path's segment, from 1"),
        ("room", "write {path: N}, the number of the path's segment, from 1"),
        ("false", "write none"),
        ("true", "write socket.io"),
    ];
    const EXPECTED: &str =
        "socket.io, none, client-address, {cookie: NAME}, {header: NAME}, {query: NAME} or {path: N}";
    let field = fields.get("affinity")?;
    let Value::Map(entries) = &field.node.value else {
        return match d.choice(&field, WORDS, HINTS)? {
            "none" => Some(Affinity::None),
            "client-address" => Some(Affinity::ClientAddress),
            _ => Some(Affinity::SocketIo),
        };
    };
    let [entry] = entries.as_slice() else {
        d.wrong(&field, EXPECTED, "write exactly one of them");
        return None;
    };
    let inner = Field { path: format!("{}.{}", field.path, entry.key), key_at: entry.key_at, node: &entry.node };
    if entry.key == "path" {
        let nth = d.number(&inner, Takes::Integer(1, LAST_SEGMENT, ""))?;
        return u8::try_from(nth).ok().map(Affinity::Path);
    }
    let make = match entry.key.as_str() {
        "cookie" => Affinity::Cookie,
        "header" => Affinity::Header,
        "query" => Affinity::Query,
        other => {
            let near =
                nearest(other, ["cookie", "header", "query", "path"]).map(|name| format!("did you mean {name}?"));
            let hint =
                near.unwrap_or_else(|| "write {cookie: NAME}, {header: NAME}, {query: NAME} or {path: N}".into());
            d.found.error(entry.key_at, format!("unknown key {} in {}", shown(other), field.path), hint);
            return None;
        }
    };
    let name = d.word(&inner)?;
    // Cookie and header names are tokens (RFC 9110, section 5.6.2); a query name only has to be there.
    let good = match entry.key.as_str() {
        "query" => !name.is_empty() && !name.contains(['&', '=', '#', ' ']),
        _ => http::HeaderName::from_bytes(name.as_bytes()).is_ok(),
    };
    if !good {
        d.wrong(&inner, &format!("the name of a {}", entry.key), "");
        return None;
    }
    Some(make(if entry.key == "header" { name.to_ascii_lowercase() } else { name }))
}

/// How requests without a session are spread.
pub(super) fn balance(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Balance {
    const HINTS: &[(&str, &str)] = &[
        ("least_conn", "write least-loaded"),
        ("leastconn", "write least-loaded"),
        ("least-connections", "write least-loaded"),
        ("rr", "write round-robin"),
        ("ip_hash", "write affinity: client-address"),
        ("source", "write affinity: client-address"),
    ];
    let Some(field) = fields.get("balance") else { return Balance::default() };
    match d.choice(&field, &["least-loaded", "round-robin"], HINTS) {
        Some("round-robin") => Balance::RoundRobin,
        Some(_) => Balance::LeastLoaded,
        None => Balance::default(),
    }
}
