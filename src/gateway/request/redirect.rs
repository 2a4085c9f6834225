//! From http to https.

use bytes::Bytes;

/// What proves to a certificate authority who owns a name is asked for by http, and stays there.
const ACME_CHALLENGE: &[u8] = b"/.well-known/acme-challenge/";

/// Whether a request is sent to https where a listener says so.
pub(in crate::gateway) fn applies(target: &[u8]) -> bool {
    !target.starts_with(ACME_CHALLENGE)
}

/// The same address with https at a port. `None` where the request names no host, or asks for no path.
pub(in crate::gateway) fn https(host: &[u8], target: &[u8], port: u16) -> Option<String> {
    let host = std::str::from_utf8(without_port(host)).ok().filter(|host| !host.is_empty())?;
    let target = std::str::from_utf8(target).ok().filter(|target| target.starts_with('/'))?;
    let safe = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !safe(host) || !safe(target) {
        return None;
    }
    Some(match port {
        443 => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    })
}

fn without_port(host: &[u8]) -> &[u8] {
    match memchr::memrchr(b':', host) {
        // In brackets, colons belong to an IPv6 address.
        Some(colon) if memchr::memchr(b']', &host[colon..]).is_none() => &host[..colon],
        _ => host,
    }
}

/// The whole HTTP/1.1 answer; the connection closes after it, as nothing more is to be asked here.
pub(in crate::gateway) fn message(location: &str) -> Bytes {
    let body = format!("308 Permanent Redirect\n\n{location}\n");
    format!(
        "HTTP/1.1 308 Permanent Redirect\r\nLocation: {location}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len(),
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_stays_but_for_scheme_and_port() {
        let cases: [(&str, &str, u16, Option<&str>); 8] = [
            ("a.example", "/b?c=d", 443, Some("https://a.example/b?c=d")),
            ("a.example:80", "/", 443, Some("https://a.example/")),
            ("a.example:8080", "/", 8443, Some("https://a.example:8443/")),
            ("[::1]:8080", "/", 8443, Some("https://[::1]:8443/")),
            ("[::1]", "/", 443, Some("https://[::1]/")),
            ("", "/", 443, None),
            ("a.example", "*", 443, None),
            ("a.example", "http://b.example/", 443, None),
        ];
        for (host, target, port, expected) in cases {
            assert_eq!(https(host.as_bytes(), target.as_bytes(), port).as_deref(), expected, "{host} {target}");
        }
    }

    #[test]
    fn what_a_certificate_authority_asks_for_stays() {
        assert!(applies(b"/"));
        assert!(applies(b"/.well-known/other"));
        assert!(!applies(b"/.well-known/acme-challenge/token"));
    }
}
