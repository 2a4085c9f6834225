//! A handshake's traffic secrets, taken out of rustls.
//!
//! rustls gives away keys, but no secrets, and no key update is possible without these. It tells them to the `KeyLog` of
//! the configuration, from within the call that derives them. So ours keeps them for whoever makes that call, on the
//! same thread, and drops what nobody asks for.

use super::keys::Secret;
use rustls::{KeyLog, ServerConfig};
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// The first two traffic secrets of a connection over TLS 1.3.
pub(crate) struct TrafficSecrets {
    pub(super) client: Secret,
    pub(super) server: Secret,
}

/// Nothing of the secrets.
impl fmt::Debug for TrafficSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrafficSecrets")
    }
}

/// What was told within one call.
#[derive(Default)]
struct Told {
    client: Option<Secret>,
    server: Option<Secret>,
}

thread_local! {
    /// `None` outside of [`capture`].
    static TOLD: RefCell<Option<Told>> = const { RefCell::new(None) };
}

/// Gets a configuration ready for connections that are to leave rustls.
pub(crate) fn prepare(config: &mut ServerConfig) {
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(Captured);
}

/// Makes a call into rustls, and gives the traffic secrets if they were derived in it. That happens once, in the call that
/// answers the ClientHello, and only for TLS 1.3. Must not be called within itself.
pub(crate) fn capture<R>(call: impl FnOnce() -> R) -> (R, Option<Box<TrafficSecrets>>) {
    TOLD.set(Some(Told::default()));
    let result = call();
    let told = TOLD.take().unwrap_or_default();
    let secrets = told.client.zip(told.server);
    (result, secrets.map(|(client, server)| Box::new(TrafficSecrets { client, server })))
}

#[derive(Debug)]
struct Captured;

impl KeyLog for Captured {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        // In a call that derives no more than two; a panic in it would have to unwind through rustls.
        let _ = TOLD.try_with(|told| {
            let Ok(mut told) = told.try_borrow_mut() else { return };
            match (told.as_mut(), label) {
                (Some(told), CLIENT) => told.client = Secret::new(secret),
                (Some(told), SERVER) => told.server = Secret::new(secret),
                _ => {}
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER)
            && TOLD.try_with(|told| told.try_borrow().is_ok_and(|told| told.is_some())).unwrap_or(false)
    }
}
