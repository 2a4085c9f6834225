//! What the worker is told about the client and the request. A client's own words in these fields never pass; of a trusted
//! proxy's those that are well formed.

use super::client::{RequestClient, last};
use super::fields::is_of_trace;
use super::forwarding::Forwarding;
use super::plan::HeaderSource;
use super::request_id::{fresh_traceparent, is_traceparent};
use crate::gateway::http1::head::is_authority;
use std::fmt::Display;
use std::net::IpAddr;

pub(in crate::gateway) struct Forwarded<'a> {
    client: &'a RequestClient,
    /// As the client asked for it, with its port.
    host: &'a [u8],
    port: u16,
    /// `Forwarded` is wanted, too.
    is_standard: bool,
    /// The trace that begins here.
    trace: Option<[u8; 55]>,
}

impl<'a> Forwarded<'a> {
    /// `host` is the one that the request is for; empty where an old client names none.
    pub(in crate::gateway) fn of(
        client: &'a RequestClient,
        forwarding: &Forwarding,
        host: &'a [u8],
        headers: &impl HeaderSource<'a>,
    ) -> Forwarded<'a> {
        let said = |name| if client.via_proxy { last(headers, name) } else { None };
        let host = said("x-forwarded-host").filter(|host| !host.is_empty() && is_authority(host)).unwrap_or(host);
        let by_scheme = if client.secure { 443 } else { 80 };
        let port = said("x-forwarded-port").and_then(port).or_else(|| port_of(host)).unwrap_or(by_scheme);
        let has_trace = || headers.first("traceparent").is_some_and(is_traceparent);
        let trace = (forwarding.begins_traces && !has_trace()).then(fresh_traceparent);
        Forwarded { client, host, port, is_standard: forwarding.forwarded, trace }
    }

    /// Whether this field gives way to one that is written here.
    pub(in crate::gateway) fn replaces(&self, name: &[u8]) -> bool {
        self.trace.is_some() && is_of_trace(name)
    }

    fn proto(&self) -> &'static str {
        if self.client.secure { "https" } else { "http" }
    }

    /// Every field to write, with its value.
    pub(in crate::gateway) fn headers(&self, mut write: impl FnMut(&'static str, &[u8])) {
        if let Some(client) = self.client.ip {
            let client = Text::of(client);
            write("X-Forwarded-For", client.bytes());
            write("X-Real-IP", client.bytes());
        }
        write("X-Forwarded-Proto", self.proto().as_bytes());
        if !self.host.is_empty() {
            write("X-Forwarded-Host", self.host);
        }
        write("X-Forwarded-Port", Text::of(self.port).bytes());
        if self.is_standard {
            write("Forwarded", &self.standard());
        }
        if !self.client.id.is_empty() {
            write("X-Request-Id", self.client.id.as_bytes());
        }
        if let Some(trace) = &self.trace {
            write("traceparent", trace);
        }
    }

    /// The same as one field (RFC 7239).
    fn standard(&self) -> Vec<u8> {
        let client = match self.client.ip {
            Some(IpAddr::V4(ip)) => format!("for={ip}"),
            Some(IpAddr::V6(ip)) => format!("for=\"[{ip}]\""),
            None => "for=unknown".to_owned(),
        };
        let mut value = format!("{client};proto={}", self.proto()).into_bytes();
        // No character of an authority needs to be escaped in quotes.
        if !self.host.is_empty() {
            value.extend_from_slice(b";host=\"");
            value.extend_from_slice(self.host);
            value.push(b'"');
        }
        value
    }
}

fn port(text: &[u8]) -> Option<u16> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|port| *port != 0)
}

/// The port that an authority names.
fn port_of(host: &[u8]) -> Option<u16> {
    let colon = host.iter().rposition(|&b| b == b':')?;
    // Within brackets it is a part of the address.
    if host[colon..].contains(&b']') { None } else { port(&host[colon + 1..]) }
}

/// An address or a number in text, without an allocation.
struct Text {
    text: [u8; 45],
    len: usize,
}

impl Text {
    fn of(value: impl Display) -> Text {
        use std::io::Write;
        let mut text = [0; 45];
        let mut rest = &mut text[..];
        // The longest address has 45 bytes.
        let _ = write!(rest, "{value}");
        let left = rest.len();
        Text { text, len: 45 - left }
    }

    fn bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::request::client::ClientInfo;
    use crate::gateway::request::forwarding::RequestIds;
    use crate::gateway::request::networks::Networks;
    use http::{HeaderMap, HeaderName};

    fn told(forwarding: &Forwarding, peer: ClientInfo, host: &str, fields: &[(&str, &str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let client = RequestClient::of(forwarding, peer, &headers);
        let mut seen = Vec::new();
        let forwarded = Forwarded::of(&client, forwarding, host.as_bytes(), &&headers);
        forwarded.headers(|name, value| seen.push(format!("{name}: {}", String::from_utf8_lossy(value))));
        seen
    }

    fn forwarding() -> Forwarding {
        let trusted = Networks::of(["10.0.0.0/8".parse().unwrap()]);
        Forwarding { trusted, request_id: RequestIds::Off, ..Forwarding::default() }
    }

    fn peer(ip: &str, secure: bool) -> ClientInfo {
        ClientInfo { ip: Some(ip.parse().unwrap()), secure, hsts: None }
    }

    #[test]
    fn an_address_is_written_in_its_own_form() {
        let expected = [
            "X-Forwarded-For: 192.0.2.7",
            "X-Real-IP: 192.0.2.7",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: a.example",
            "X-Forwarded-Port: 443",
        ];
        assert_eq!(told(&forwarding(), peer("::ffff:192.0.2.7", true), "a.example", &[]), expected);
        let longest: IpAddr = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".parse().unwrap();
        assert_eq!(Text::of(longest).bytes(), b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    }

    #[test]
    fn the_port_is_the_one_that_the_client_asked_for() {
        for (host, secure, port) in [
            ("a.example", false, "80"),
            ("a.example:8000", false, "8000"),
            ("[2001:db8::1]", true, "443"),
            ("[2001:db8::1]:8443", true, "8443"),
            ("a.example:", false, "80"),
            ("a.example:0", false, "80"),
            ("a.example:70000", false, "80"),
            ("", true, "443"),
        ] {
            let seen = told(&forwarding(), peer("192.0.2.7", secure), host, &[]);
            assert!(seen.contains(&format!("X-Forwarded-Port: {port}")), "{host}: {seen:?}");
        }
    }

    #[test]
    fn a_trusted_proxy_says_what_its_client_asked_for() {
        let said = [
            ("x-forwarded-for", "8.8.8.8, 192.0.2.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example, shop.example:4443"),
            ("x-forwarded-port", "4444"),
        ];
        let expected = [
            "X-Forwarded-For: 192.0.2.9",
            "X-Real-IP: 192.0.2.9",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: shop.example:4443",
            "X-Forwarded-Port: 4444",
        ];
        assert_eq!(told(&forwarding(), peer("10.1.1.1", false), "a.example", &said), expected);
        let others = told(&forwarding(), peer("192.0.2.7", false), "a.example", &said);
        assert!(
            others.iter().all(|field| !field.contains("evil") && !field.contains("shop") && !field.contains("44")),
            "{others:?}"
        );
        // By its host, or its scheme, where it names no port.
        let by_host = told(&forwarding(), peer("10.1.1.1", false), "a", &said[..3]);
        assert!(by_host.contains(&"X-Forwarded-Port: 4443".to_owned()), "{by_host:?}");
        let by_scheme = told(&forwarding(), peer("10.1.1.1", false), "a", &said[..2]);
        assert!(by_scheme.contains(&"X-Forwarded-Port: 443".to_owned()), "{by_scheme:?}");
        let broken = [("x-forwarded-host", "a b"), ("x-forwarded-port", "x"), ("x-forwarded-host", "")];
        let own = told(&forwarding(), peer("10.1.1.1", false), "a", &broken);
        assert!(own.contains(&"X-Forwarded-Host: a".to_owned()) && own.contains(&"X-Forwarded-Port: 80".to_owned()));
    }

    #[test]
    fn the_standard_field_is_written_when_it_is_wanted() {
        let forwarding = Forwarding { forwarded: true, ..forwarding() };
        for (ip, value) in [
            ("192.0.2.7", "Forwarded: for=192.0.2.7;proto=http;host=\"a:81\""),
            ("2001:db8::1", "Forwarded: for=\"[2001:db8::1]\";proto=http;host=\"a:81\""),
        ] {
            let seen = told(&forwarding, peer(ip, false), "a:81", &[]);
            assert!(seen.contains(&value.to_owned()), "{seen:?}");
        }
    }

    #[test]
    fn a_trace_begins_where_there_is_none() {
        let forwarding = Forwarding { begins_traces: true, ..forwarding() };
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let begins = |said: &[(&str, &str)]| {
            let seen = told(&forwarding, peer("192.0.2.7", false), "a", said);
            seen.iter().any(|field| field.starts_with("traceparent: 00-"))
        };
        assert!(begins(&[]) && begins(&[("traceparent", "x")]) && !begins(&[("traceparent", good)]));
    }
}
