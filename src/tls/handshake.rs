//! Accepts TLS on a connection: reads the ClientHello, asks the listener's rules who answers it, and ends the handshake
//! within a deadline.

use super::rules::{ClientPolicyId, TlsRules};
use super::stream::TlsStream;
use arc_swap::ArcSwap;
use bytes::BytesMut;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use rustls::server::Acceptor;
use rustls::{AlertDescription, Error, ServerConfig};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Largest ClientHello, with the headers of its records.
const LARGEST_HELLO: usize = 16 * 1024 + 5;
/// Handshakes that are answered in a row before other connections of the thread have their turn. Others wait, within their
/// deadline; who is to say something has no slot, so that who is silent on purpose keeps nobody out.
const SLOTS: usize = 16;
/// For the last words to a client.
const ALERT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a handshake came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It took too long.
    Timeout,
    /// The client left.
    Closed,
    /// The ClientHello is too large.
    TooLarge,
    /// What came is not TLS.
    NotTls,
    /// What came is plain HTTP.
    PlainHttp,
    /// Client and proxy have no version, cipher suite or protocol in common.
    Incompatible,
    /// There is no certificate for the name that was asked for.
    NoCertificate,
    /// The client's certificate is missing or not accepted.
    ClientCertificate,
    /// The client has refused with an alert, as for a certificate that it does not trust.
    Alert,
    /// The client has broken the protocol.
    Protocol,
}

impl Reason {
    pub(crate) const ALL: [Reason; 10] = [
        Reason::Timeout,
        Reason::Closed,
        Reason::TooLarge,
        Reason::NotTls,
        Reason::PlainHttp,
        Reason::Incompatible,
        Reason::NoCertificate,
        Reason::ClientCertificate,
        Reason::Alert,
        Reason::Protocol,
    ];

    /// As metrics call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::Timeout => "timeout",
            Reason::Closed => "closed",
            Reason::TooLarge => "too_large",
            Reason::NotTls => "not_tls",
            Reason::PlainHttp => "plain_http",
            Reason::Incompatible => "incompatible",
            Reason::NoCertificate => "no_certificate",
            Reason::ClientCertificate => "client_certificate",
            Reason::Alert => "alert",
            Reason::Protocol => "protocol",
        }
    }

    fn of(error: &Error) -> Reason {
        match error {
            Error::AlertReceived(_) => Reason::Alert,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Reason::Incompatible,
            Error::NoCertificatesPresented
            | Error::InvalidCertificate(_)
            | Error::InvalidCertRevocationList(_)
            | Error::UnsupportedNameType => Reason::ClientCertificate,
            _ => Reason::Protocol,
        }
    }

    fn of_io(error: &io::Error) -> Reason {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        tls.map_or(Reason::Closed, Reason::of)
    }
}

/// Why there is no TLS connection, and what is left to be done with what there is.
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    /// In a sentence, for the log.
    pub(crate) why: String,
    /// A client that speaks plain HTTP, and what it has said so far.
    pub(crate) plain: Option<(L4Stream, BytesMut)>,
}

impl Failure {
    fn new(reason: Reason, why: impl ToString) -> Failure {
        Failure { reason, why: why.to_string(), plain: None }
    }
}

/// Makes a TLS connection by the rules that are in force when its ClientHello is whole.
///
/// # Errors
/// There is none. What there was to say to the client has been said.
pub(crate) async fn accept(socket: L4Stream, rules: &ArcSwap<TlsRules>) -> Result<TlsStream, Failure> {
    let limit = rules.load().handshake_timeout;
    let Ok(outcome) = timeout(limit, begin(socket, rules)).await else {
        return Err(Failure::new(Reason::Timeout, format_args!("no handshake within {limit:?}")));
    };
    match outcome {
        Ok(stream) => Ok(stream),
        Err((failure, words)) => {
            // With a time of their own: who is slow to hear them is no reason for another failure.
            let _ = timeout(ALERT_TIMEOUT, words.say()).await;
            Err(failure)
        }
    }
}

/// What a client whose handshake failed is told.
enum LastWords {
    None,
    Alert(Box<L4Stream>, Vec<u8>),
    /// What rustls has to say.
    Shutdown(Box<TlsStream>),
}

impl LastWords {
    async fn say(self) -> io::Result<()> {
        match self {
            LastWords::None => Ok(()),
            LastWords::Alert(mut socket, words) => say(&mut socket, &words).await,
            LastWords::Shutdown(mut stream) => stream.shutdown().await,
        }
    }
}

async fn begin(mut socket: L4Stream, rules: &ArcSwap<TlsRules>) -> Result<TlsStream, (Failure, LastWords)> {
    let mut received = BytesMut::new();
    let (config, asked) = match hello(&mut socket, &mut received, rules).await {
        Ok(answerer) => answerer,
        Err(Refusal::Quiet(failure)) => return Err((failure, LastWords::None)),
        Err(Refusal::Plain(why)) => {
            let plain = Some((socket, received));
            return Err((Failure { reason: Reason::PlainHttp, why, plain }, LastWords::None));
        }
        Err(Refusal::Said(failure, alert)) => return Err((failure, LastWords::Alert(Box::new(socket), alert))),
    };
    let made = TlsStream::new(socket, config, received);
    let mut stream = made.map_err(|error| (Failure::new(Reason::Protocol, error), LastWords::None))?;
    match finish(&mut stream).await {
        Ok(()) => {
            stream.let_in(asked);
            Ok(stream)
        }
        Err(error) => match Reason::of_io(&error) {
            Reason::Closed => Err((Failure::new(Reason::Closed, error), LastWords::None)),
            reason => Err((Failure::new(reason, error), LastWords::Shutdown(Box::new(stream)))),
        },
    }
}

/// Answers the ClientHello, which costs a signature, and waits for the rest.
async fn finish(stream: &mut TlsStream) -> io::Result<()> {
    let mut handshake = std::pin::pin!(std::future::poll_fn(|cx| stream.poll_handshake(cx)));
    let answered = {
        let slots = slots();
        let _slot = slots.acquire().await.ok();
        std::future::poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await
    };
    match answered {
        Poll::Ready(done) => done,
        Poll::Pending => handshake.await,
    }
}

/// Of this thread.
fn slots() -> Arc<Semaphore> {
    thread_local! {
        static SLOT: Arc<Semaphore> = Arc::new(Semaphore::new(SLOTS));
    }
    SLOT.with(Arc::clone)
}

enum Refusal {
    /// Nobody is to be told.
    Quiet(Failure),
    /// With what tells the client.
    Said(Failure, Vec<u8>),
    Plain(String),
}

/// Reads a whole ClientHello into `received`, and finds what answers it, and under which policy its client is.
async fn hello(
    socket: &mut L4Stream,
    received: &mut BytesMut,
    rules: &ArcSwap<TlsRules>,
) -> Result<(Arc<ServerConfig>, Option<ClientPolicyId>), Refusal> {
    let mut acceptor = Acceptor::default();
    loop {
        let before = received.len();
        if before >= LARGEST_HELLO {
            let failure = Failure::new(Reason::TooLarge, "its ClientHello is too large");
            return Err(Refusal::Said(failure, alert(AlertDescription::DecodeError)));
        }
        received.reserve(if before == 0 { 2048 } else { LARGEST_HELLO.min(2 * before) });
        let mut limited = (&mut *socket).take((LARGEST_HELLO - before) as u64);
        match limited.read_buf(received).await {
            Ok(0) => {
                return Err(Refusal::Quiet(Failure::new(Reason::Closed, "the client left before its ClientHello")));
            }
            Ok(_) => {}
            Err(error) => return Err(Refusal::Quiet(Failure::new(Reason::Closed, error))),
        }
        if before == 0 && is_plain_http(received[0]) {
            return Err(Refusal::Plain("the client speaks plain HTTP".into()));
        }
        if received[0] != HANDSHAKE {
            let failure = Failure::new(Reason::NotTls, format_args!("its first byte is {:#04x}", received[0]));
            return Err(Refusal::Said(failure, alert(AlertDescription::UnexpectedMessage)));
        }
        let mut fresh = &received[before..];
        while !fresh.is_empty() {
            if !matches!(acceptor.read_tls(&mut fresh), Ok(1..)) {
                return Err(Refusal::Quiet(Failure::new(Reason::TooLarge, "its ClientHello is too large")));
            }
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let (hello, rules) = (accepted.client_hello(), rules.load());
                let answerer = rules.server_config(&hello).map(|config| (config, rules.asked(&hello)));
                return answerer.ok_or_else(|| {
                    let failure = Failure::new(Reason::NoCertificate, "no certificate is for the name it asks for");
                    Refusal::Said(failure, alert(AlertDescription::UnrecognisedName))
                });
            }
            Err((error, mut alert)) => {
                let mut said = Vec::new();
                let _ = alert.write_all(&mut said);
                return Err(Refusal::Said(Failure::new(Reason::of(&error), error), said));
            }
        }
    }
}

/// The first byte of a record of the handshake, with which each connection begins.
pub(crate) const HANDSHAKE: u8 = 22;

/// Methods are upper-case letters.
fn is_plain_http(first: u8) -> bool {
    first.is_ascii_uppercase()
}

/// A fatal alert, before there are keys.
pub(crate) fn alert(description: AlertDescription) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, description.into()]
}

/// Says the last words, so that they arrive.
async fn say(socket: &mut L4Stream, words: &[u8]) -> io::Result<()> {
    socket.write_all(words).await?;
    socket.flush().await?;
    socket.shutdown().await?;
    // What nobody reads would turn the close into a reset.
    let mut left = 64 * 1024_usize;
    let mut discard = [0; 1024];
    while left > 0 {
        match socket.read(&mut discard).await? {
            0 => break,
            n => left = left.saturating_sub(n),
        }
    }
    Ok(())
}
