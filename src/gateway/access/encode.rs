//! A record as a line: nothing that a client sends ends a line, or a field of it.

use super::record::{Record, TunnelLine};
use super::redact::Redact;
use super::template::{Format, Piece, Variable};
use crate::process::output::json_escaped;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Appends a line with its end.
pub(super) fn line(record: &Record<'_>, format: &Format, redact: &Redact, out: &mut Vec<u8>) {
    match format {
        Format::Json => json(record, redact, out),
        Format::Text(pieces) => {
            for piece in pieces {
                match piece {
                    Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                    Piece::Variable(variable) => value(record, *variable, redact, out),
                }
            }
        }
    }
    out.push(b'\n');
}

/// As nginx has it: what could end a field or drive a terminal, and all that is not ASCII, becomes `\xHH`.
fn escaped(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text {
        match byte {
            b'"' | b'\\' | 0..=31 | 127..=255 => {
                let digit = |half: u8| HEX.get(usize::from(half)).copied().unwrap_or(b'0');
                out.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
}

/// The value of a variable; `-` where there is none.
fn value(record: &Record<'_>, variable: Variable, redact: &Redact, out: &mut Vec<u8>) {
    let before = out.len();
    match variable {
        Variable::TimeLocal | Variable::TimeIso8601 | Variable::Msec => time(record.time, variable, out),
        Variable::Request
        | Variable::RequestMethod
        | Variable::RequestUri
        | Variable::Uri
        | Variable::Args
        | Variable::HttpReferer => of_request(record, variable, redact, out),
        Variable::BytesSent
        | Variable::BodyBytesSent
        | Variable::RequestLength
        | Variable::ContentReceived
        | Variable::Status
        | Variable::Retries
        | Variable::Slot
        | Variable::Generation => number(record, variable, out),
        Variable::RequestTime
        | Variable::QueueTime
        | Variable::UpstreamConnectTime
        | Variable::UpstreamHeaderTime
        | Variable::UpstreamResponseTime => taken(record, variable, out),
        _ => word(record, variable, out),
    }
    if out.len() == before {
        out.push(b'-');
    }
}

fn of_request(record: &Record<'_>, variable: Variable, redact: &Redact, out: &mut Vec<u8>) {
    let facts = record.facts;
    let split = memchr::memchr(b'?', facts.target);
    match variable {
        Variable::Request => {
            escaped(facts.method, out);
            if !facts.target.is_empty() {
                out.push(b' ');
                redact.pieces(facts.target, |piece| escaped(piece, out));
            }
            if !facts.protocol.is_empty() {
                out.push(b' ');
                out.extend_from_slice(facts.protocol.as_bytes());
            }
        }
        Variable::RequestMethod => escaped(facts.method, out),
        Variable::RequestUri => redact.pieces(facts.target, |piece| escaped(piece, out)),
        Variable::Uri => escaped(facts.target.get(..split.unwrap_or(facts.target.len())).unwrap_or_default(), out),
        Variable::Args => redacted_query(facts.target, redact, |piece| escaped(piece, out)),
        _ => redact.pieces(facts.referer.unwrap_or_default(), |piece| escaped(piece, out)),
    }
}

/// What follows the `?`.
fn redacted_query(target: &[u8], redact: &Redact, mut give: impl FnMut(&[u8])) {
    let Some(mark) = memchr::memchr(b'?', target) else { return };
    let mut skip = mark + 1;
    redact.pieces(target, |piece| {
        let skipped = skip.min(piece.len());
        skip -= skipped;
        give(piece.get(skipped..).unwrap_or_default());
    });
}

fn number(record: &Record<'_>, variable: Variable, out: &mut Vec<u8>) {
    let worker = record.worker;
    let number = match variable {
        Variable::BytesSent => Some(record.bytes.sent),
        Variable::BodyBytesSent => Some(record.body_bytes()),
        Variable::RequestLength => Some(record.facts.head_bytes + record.bytes.received),
        Variable::ContentReceived => Some(record.bytes.received),
        Variable::Status => Some(record.status.into()),
        Variable::Retries => Some(record.retries.into()),
        Variable::Slot => worker.map(|worker| worker.slot.into()),
        Variable::Generation => worker.map(|worker| worker.generation.into()),
        _ => None,
    };
    // A Vec takes all that is written to it.
    let _ = number.map(|number| write!(out, "{number}"));
}

fn taken(record: &Record<'_>, variable: Variable, out: &mut Vec<u8>) {
    let times = record.times;
    let time = match variable {
        Variable::RequestTime => Some(times.total),
        Variable::QueueTime => times.queue,
        Variable::UpstreamConnectTime => times.connect,
        Variable::UpstreamHeaderTime => times.first_byte.map(|first| first + times.connect.unwrap_or_default()),
        Variable::UpstreamResponseTime => times.worker,
        _ => None,
    };
    let _ = time.map(|time| write!(out, "{}.{:03}", time.as_secs(), time.subsec_millis()));
}

fn word(record: &Record<'_>, variable: Variable, out: &mut Vec<u8>) {
    let facts = record.facts;
    match variable {
        Variable::RemoteAddr => {
            let _ = facts.client.map(|client| write!(out, "{}", client.to_canonical()));
        }
        Variable::ServerProtocol => out.extend_from_slice(facts.protocol.as_bytes()),
        Variable::Scheme => out.extend_from_slice(facts.scheme().as_bytes()),
        Variable::Host => escaped(&without_port(facts.host).to_ascii_lowercase(), out),
        Variable::HttpHost => escaped(facts.host, out),
        Variable::HttpUserAgent => escaped(facts.user_agent.unwrap_or_default(), out),
        Variable::UpstreamAddr => {
            if let Some(worker) = record.worker {
                out.extend_from_slice(b"unix:");
                escaped(worker.socket.as_bytes(), out);
            }
        }
        Variable::RequestId => escaped(facts.request_id.unwrap_or_default(), out),
        Variable::SslProtocol => escaped(facts.tls_version.unwrap_or_default().as_bytes(), out),
        Variable::SslCipher => escaped(facts.tls_cipher.unwrap_or_default().as_bytes(), out),
        Variable::App => escaped(facts.app.unwrap_or_default().as_bytes(), out),
        Variable::Route => escaped(facts.route.unwrap_or_default().as_bytes(), out),
        Variable::SidTag => {
            let _ = record.sid_tag.map(|tag| escaped(tag.as_str().as_bytes(), out));
        }
        Variable::AnsweredBy => out.extend_from_slice(record.answered_by().as_bytes()),
        Variable::Reason => escaped(record.reason.unwrap_or_default().as_bytes(), out),
        Variable::Upgrade if facts.upgrade => out.extend_from_slice(b"websocket"),
        Variable::Tunnel => out.extend_from_slice(tunnel(record).unwrap_or_default().as_bytes()),
        _ => {}
    }
}

/// An IPv6 address keeps its brackets.
fn without_port(host: &[u8]) -> &[u8] {
    let from = memchr::memrchr(b']', host).unwrap_or(0);
    let end = host.get(from..).and_then(|rest| memchr::memchr(b':', rest)).map_or(host.len(), |at| from + at);
    host.get(..end).unwrap_or(host)
}

fn tunnel(record: &Record<'_>) -> Option<&'static str> {
    record.tunnel.map(|tunnel| match tunnel {
        TunnelLine::Begin => "begin",
        TunnelLine::End(..) => "end",
    })
}

fn time(time: SystemTime, form: Variable, out: &mut Vec<u8>) {
    if form == Variable::Msec {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let _ = write!(out, "{}.{:03}", since.as_secs(), since.subsec_millis());
        return;
    }
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // `2026-11-28T18:41:17Z`, on the stack.
    let mut text = [0_u8; 32];
    let mut room = &mut text[..];
    let _ = write!(room, "{}", humantime::format_rfc3339_seconds(time));
    let text = std::str::from_utf8(&text).unwrap_or_default();
    let part = |from, to| text.get(from..to).unwrap_or_default();
    let (date, clock) = (part(0, 10), part(11, 19));
    let _ = match form {
        Variable::TimeIso8601 => write!(out, "{date}T{clock}+00:00"),
        _ => {
            let month = part(5, 7).parse::<usize>().ok().and_then(|month| MONTHS.get(month.wrapping_sub(1)));
            write!(out, "{}/{}/{}:{clock} +0000", part(8, 10), month.unwrap_or(&"Jan"), part(0, 4))
        }
    };
}

/// An object of one line. What is not known is left out.
fn json(record: &Record<'_>, redact: &Redact, out: &mut Vec<u8>) {
    let facts = record.facts;
    let _ = write!(out, "{{\"time\":\"{}\"", humantime::format_rfc3339_millis(record.time));
    if let Some(client) = facts.client {
        let _ = write!(out, ",\"client\":\"{}\"", client.to_canonical());
    }
    text("method", Some(facts.method), out);
    let path = facts.target.get(..memchr::memchr(b'?', facts.target).unwrap_or(facts.target.len()));
    text("path", path, out);
    if facts.target.contains(&b'?') {
        out.extend_from_slice(b",\"query\":\"");
        redacted_query(facts.target, redact, |piece| json_escaped(piece, out));
        out.push(b'"');
    }
    text("protocol", Some(facts.protocol.as_bytes()), out);
    text("scheme", Some(facts.scheme().as_bytes()), out);
    text("host", Some(facts.host), out);
    let _ = write!(out, ",\"status\":{},\"answered_by\":\"{}\"", record.status, record.answered_by());
    text("reason", record.reason.map(str::as_bytes), out);
    text("detail", record.detail.map(str::as_bytes), out);
    text("app", facts.app.map(str::as_bytes), out);
    text("route", facts.route.map(str::as_bytes), out);
    if let Some(worker) = record.worker {
        let _ = write!(out, ",\"slot\":{},\"generation\":{}", worker.slot, worker.generation);
    }
    text("request_id", facts.request_id, out);
    text("sid_tag", record.sid_tag.as_ref().map(|tag| tag.as_str().as_bytes()), out);
    if facts.upgrade {
        out.extend_from_slice(b",\"upgrade\":\"websocket\"");
    }
    text("tls_version", facts.tls_version.map(str::as_bytes), out);
    text("tls_cipher", facts.tls_cipher.map(str::as_bytes), out);
    json_tunnel(record, out);
    json_times(record, out);
    let (bytes, retries) = (record.bytes, record.retries);
    let _ = write!(
        out,
        ",\"received\":{},\"sent\":{},\"body_sent\":{},\"retries\":{retries}",
        bytes.received,
        bytes.sent,
        record.body_bytes()
    );
    text("user_agent", facts.user_agent, out);
    if let Some(referer) = facts.referer {
        out.extend_from_slice(b",\"referer\":\"");
        redact.pieces(referer, |piece| json_escaped(piece, out));
        out.push(b'"');
    }
    out.push(b'}');
}

fn json_tunnel(record: &Record<'_>, out: &mut Vec<u8>) {
    text("tunnel", tunnel(record).map(str::as_bytes), out);
    if let Some(TunnelLine::End(began, _)) = record.tunnel {
        let _ = write!(out, ",\"began\":\"{}\"", humantime::format_rfc3339_millis(began));
    }
}

fn json_times(record: &Record<'_>, out: &mut Vec<u8>) {
    let times = record.times;
    let all = [
        ("queue", times.queue),
        ("connect", times.connect),
        ("first_byte", times.first_byte),
        ("total", Some(times.total)),
    ];
    let known = all.into_iter().filter_map(|(name, time): (&str, Option<Duration>)| Some((name, time?)));
    for (name, time) in known {
        let _ = write!(out, ",\"{name}\":{}.{:06}", time.as_secs(), time.subsec_micros());
    }
}

fn text(name: &str, value: Option<&[u8]>, out: &mut Vec<u8>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        let _ = write!(out, ",\"{name}\":\"");
        json_escaped(value, out);
        out.push(b'"');
    }
}
