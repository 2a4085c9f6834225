//! What the worker is told about the client. A client's own words in these fields never pass.

use std::net::IpAddr;

pub(in crate::gateway) struct Forwarded<'a> {
    pub(in crate::gateway) client: Option<IpAddr>,
    /// The client's connection is over TLS.
    pub(in crate::gateway) secure: bool,
    pub(in crate::gateway) host: &'a [u8],
}

impl Forwarded<'_> {
    pub(in crate::gateway) fn proto(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Every field to write, with its value. An IPv4 client of an IPv6 listener is shown as IPv4.
    pub(in crate::gateway) fn headers(&self, mut write: impl FnMut(&'static str, &[u8])) {
        if let Some(client) = self.client {
            let client = AddressText::of(client.to_canonical());
            write("X-Forwarded-For", client.bytes());
            write("X-Real-IP", client.bytes());
        }
        write("X-Forwarded-Proto", self.proto().as_bytes());
        if !self.host.is_empty() {
            write("X-Forwarded-Host", self.host);
        }
    }
}

/// An address in text, without an allocation.
struct AddressText {
    text: [u8; 45],
    len: usize,
}

impl AddressText {
    fn of(address: IpAddr) -> AddressText {
        use std::io::Write;
        let mut text = [0; 45];
        let mut rest = &mut text[..];
        // The longest address has 45 bytes.
        let _ = write!(rest, "{address}");
        let left = rest.len();
        AddressText { text, len: 45 - left }
    }

    fn bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_in_its_own_form() {
        let mut seen = Vec::new();
        let client = Some("::ffff:10.0.0.7".parse().unwrap());
        let forwarded = Forwarded { client, secure: true, host: b"a.example" };
        forwarded.headers(|name, value| seen.push(format!("{name}: {}", String::from_utf8_lossy(value))));
        let expected = [
            "X-Forwarded-For: 10.0.0.7",
            "X-Real-IP: 10.0.0.7",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: a.example",
        ];
        assert_eq!(seen, expected);
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".parse().unwrap();
        assert_eq!(AddressText::of(longest).bytes(), b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    }
}
