//! A JSON POST with Pingora's own HTTP client.

use http::{HeaderName, HeaderValue, Uri};
use pingora::http::RequestHeader;
use pingora_core::connectors::http::v1::Connector;
use pingora_core::tls;
use pingora_core::upstreams::peer::HttpPeer;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Where notices are posted.
#[derive(Clone, Debug)]
pub(crate) struct Webhook {
    /// `http` or `https`, with a host.
    pub(crate) url: Uri,
    /// Beside those that every request has.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// For one try, from looking up the name to the status.
    pub(crate) timeout: Duration,
    /// Tries after the first one.
    pub(crate) retries: u32,
}

/// Why it was not taken.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) why: String,
    /// A later try may do better.
    pub(super) again: bool,
}

impl Refused {
    fn again(why: impl ToString) -> Refused {
        Refused { why: why.to_string(), again: true }
    }
}

/// Addresses of a name that are tried.
const ADDRESSES: usize = 4;

impl Webhook {
    pub(super) async fn post(self: Arc<Self>, body: &str) -> Result<(), Refused> {
        let limit = self.timeout;
        let try_it = async {
            let status = self.exchange(body).await?;
            match status {
                200..=299 => Ok(()),
                // Too early, too many; or its own trouble.
                408 | 425 | 429 | 500..=599 => Err(Refused::again(format!("it answered {status}"))),
                _ => Err(Refused { why: format!("it answered {status}"), again: false }),
            }
        };
        let late = |_| Err(Refused::again(format!("no answer within {limit:?}")));
        tokio::time::timeout(limit, try_it).await.unwrap_or_else(late)
    }

    async fn exchange(&self, body: &str) -> Result<u16, Refused> {
        let tls = self.url.scheme_str() == Some("https");
        let host = self.url.host().unwrap_or_default();
        let port = self.url.port_u16().unwrap_or(if tls { 443 } else { 80 });
        // An IPv6 address stands in brackets.
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let found = tokio::net::lookup_host((name, port)).await;
        let addresses = found.map_err(|e| Refused::again(format!("{host}: {e}")))?;
        let mut last = Refused::again(format!("{host} has no address"));
        for address in addresses.take(ADDRESSES) {
            match self.exchange_with(address, tls, name, body).await {
                Ok(status) => return Ok(status),
                Err(refused) => last = refused,
            }
        }
        Err(last)
    }

    async fn exchange_with(&self, to: SocketAddr, tls: bool, name: &str, body: &str) -> Result<u16, Refused> {
        let peer = HttpPeer::new(to, tls, name.to_owned());
        let failed = |what: &'static str| {
            move |e: Box<pingora_core::Error>| Refused::again(format!("{what} {to}: {}", reason(&e)))
        };
        let (mut session, _) = connector().await?.get_http_session(&peer).await.map_err(failed("connecting to"))?;
        session.write_request_header(Box::new(self.head(body)?)).await.map_err(failed("writing to"))?;
        session.write_body(body.as_bytes()).await.map_err(failed("writing to"))?;
        session.finish_body().await.map_err(failed("writing to"))?;
        loop {
            session.read_response().await.map_err(failed("reading from"))?;
            match session.get_status().map(|status| status.as_u16()) {
                // 103 and the like come before the answer.
                Some(100..=199) => {}
                Some(status) => return Ok(status),
                None => return Err(Refused::again("no status")),
            }
        }
    }

    fn head(&self, body: &str) -> Result<RequestHeader, Refused> {
        let odd = |e: Box<pingora_core::Error>| Refused { why: format!("the request: {e}"), again: false };
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let mut head = RequestHeader::build("POST", path.as_bytes(), None).map_err(odd)?;
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        head.insert_header("Host", authority).map_err(odd)?;
        head.insert_header("User-Agent", concat!("pingora-unix-proxy/", env!("CARGO_PKG_VERSION"))).map_err(odd)?;
        head.insert_header("Content-Type", "application/json").map_err(odd)?;
        for (name, value) in &self.headers {
            head.insert_header(name.clone(), value.clone()).map_err(odd)?;
        }
        head.insert_header("Content-Length", body.len()).map_err(odd)?;
        head.insert_header("Connection", "close").map_err(odd)?;
        Ok(head)
    }
}

/// What it was, and what the library below said. The cause alone may be a mere address.
fn reason(error: &pingora_core::Error) -> String {
    let context = error.context.as_ref().map(|context| context.as_str().to_owned());
    let cause = error.cause.as_ref().map(ToString::to_string);
    let parts = [Some(error.etype().as_str().to_owned()), context, cause];
    parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
}

/// Made at the first use, away from threads that serve: it reads the certificates of the system's authorities.
async fn connector() -> Result<Arc<Connector>, Refused> {
    static MADE: OnceLock<Arc<Connector>> = OnceLock::new();
    if let Some(made) = MADE.get() {
        return Ok(made.clone());
    }
    let made = tokio::task::spawn_blocking(|| {
        // Pingora panics over what this finds.
        authorities()?;
        Ok(MADE.get_or_init(|| Arc::new(Connector::new(None))).clone())
    });
    made.await.map_err(Refused::again)?.map_err(|why: String| Refused::again(why))
}

/// Whether the system's authorities are known, by the rules of the library that will load them.
///
/// # Errors
/// What is wrong, where, and what to do.
fn authorities() -> Result<(), String> {
    let place = |name: &str| std::env::var_os(name).map(|value| format!("{name}={}", value.display()));
    let places: Vec<_> = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(place).collect();
    let (place, cure) = match places.is_empty() {
        true => ("the system's place, /etc/ssl/certs or the like".to_owned(), "install ca-certificates anew"),
        false => (places.join(" and "), "mend it, or name another"),
    };
    let wrong = |what: String| format!("certificates of authorities ({place}): {what}; {cure}");
    let found = tls::load_native_certs().map_err(|e| wrong(e.to_string()))?;
    if found.is_empty() {
        return Err(wrong("there are none, so no https server can be trusted".to_owned()));
    }
    let (all, mut store) = (found.len(), tls::RootCertStore::empty());
    let damaged = found.into_iter().map(|one| store.add(one)).filter_map(Result::err).collect::<Vec<_>>();
    match damaged.first() {
        Some(why) => Err(wrong(format!("{} of {all} are damaged ({why})", damaged.len()))),
        None => Ok(()),
    }
}
