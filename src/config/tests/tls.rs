//! Listeners with TLS.

use super::*;
use crate::tls::client_certificates::Mode;
use crate::tls::rules::{self, Version};

#[test]
fn a_written_default_of_tls_changes_nothing() {
    let listener = |tls: &str| format!("{:?}", good(&listener_tls(tls)).listeners);
    let plain = listener("{certificates: self-signed}");
    assert_eq!(plain, listener("self-signed"));
    for key in schema::TLS.keys {
        if let Preset::Yaml(value) = key.default {
            assert_eq!(plain, listener(&format!("{{certificates: self-signed, {}: {value}}}", key.name)));
        }
    }
    let asking = |more: &str| listener(&format!("{{certificates: self-signed, client_certificates: {more}}}"));
    assert_eq!(asking("{ca: ca.pem}"), asking("[{ca: ca.pem, mode: required}]"));
}

#[test]
fn tls_is_read() {
    let config = good(&format!(
        "{}\nroutes: [{{host: a.example}}, {{host: \"[::1]\"}}, {{}}]\nstate_dir: /var/lib/x",
        listener_tls(
            "{certificates: self-signed, min_version: 1.3, http2: false, client_certificates: [{ca: a.pem, hosts: [A.example]}, {ca: b.pem, mode: optional}]}"
        )
    ));
    let Some(tls) = &config.listeners[0].tls else { panic!("no TLS") };
    let names = ["localhost", "127.0.0.1", "::1", "a.example"].map(str::to_owned).to_vec();
    assert_eq!(tls.certificates, [rules::Source::SelfSigned { names, dir: "/var/lib/x".into() }]);
    assert_eq!((tls.min_version, tls.http2), (Version::Tls13, false));
    let [of_host, of_others] = &tls.client_certificates[..] else { panic!("{tls:?}") };
    assert_eq!((of_host.hosts.as_slice(), of_host.mode), (&["a.example".to_owned()][..], Mode::Required));
    assert_eq!((of_others.ca.as_path(), of_others.mode), (Path::new("/srv/b.pem"), Mode::Optional));
}

pub(super) fn listener_tls(tls: &str) -> String {
    format!("listeners: [{{address: \"0.0.0.0:443\", tls: {tls}}}]\napps: {{chat: {{script: app.js}}}}")
}
