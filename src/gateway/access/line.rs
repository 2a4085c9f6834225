//! A request whose line is still to be written.

use super::AccessLog;
use super::facts::Facts;
use super::record::{By, ByteCount, Record, Times, Trace, TunnelLine, Worker};
use crate::gateway::request::socketio::Query;
use crate::worker::Tag;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Writes its line when it is dropped, so that no end of a request is without one: also where its client has left, and
/// its task with it.
pub(in crate::gateway) struct Line<'a> {
    log: &'a AccessLog,
    pub(in crate::gateway) facts: Facts<'a>,
    pub(in crate::gateway) trace: Trace,
    becomes_tunnel: bool,
}

impl<'a> Line<'a> {
    /// Of its own place in memory, where connections without an access log do not have room for it.
    pub(in crate::gateway) fn new(log: &'a AccessLog, facts: Facts<'a>) -> Box<Line<'a>> {
        Box::new(Line { log, facts, trace: Trace::new(), becomes_tunnel: false })
    }

    /// The request goes on as a tunnel, which has a line at its end.
    pub(in crate::gateway) fn into_tunnel(mut self: Box<Self>) -> Box<Entry> {
        self.becomes_tunnel = true;
        let entry = Box::new(Entry::new(self.log, &self.facts, &self.trace));
        if self.log.tells_beginnings() {
            entry.write(self.log, Some(TunnelLine::Begin), self.trace.bytes);
        }
        entry
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self.becomes_tunnel {
            return;
        }
        write(self.log, &self.facts, tag_of(self.facts.target), &self.trace);
    }
}

/// The line of a request that has come to its end.
fn write(log: &AccessLog, facts: &Facts<'_>, sid_tag: Option<Tag>, trace: &Trace) {
    let worker = trace.worker.as_ref().map(|member| Worker {
        slot: member.id.slot.0,
        generation: member.generation().0,
        socket: &member.socket,
    });
    log.write(&Record {
        time: SystemTime::now(),
        facts,
        worker,
        sid_tag,
        status: trace.status,
        by: trace.by,
        reason: trace.reason,
        detail: trace.detail,
        times: trace.times(),
        retries: trace.retries,
        bytes: trace.bytes,
        tunnel: None,
    });
}

/// A [`Line`] of a request whose head is not kept where it is carried.
pub(in crate::gateway) struct OwnedLine {
    log: Arc<AccessLog>,
    entry: Entry,
    pub(in crate::gateway) trace: Trace,
}

impl OwnedLine {
    pub(in crate::gateway) fn new(log: Arc<AccessLog>, facts: &Facts<'_>) -> Box<OwnedLine> {
        let trace = Trace::new();
        Box::new(OwnedLine { entry: Entry::new(&log, facts, &trace), log, trace })
    }

    pub(in crate::gateway) fn set_app(&mut self, app: &str) {
        self.entry.app = Some(app.to_owned());
    }

    pub(in crate::gateway) fn set_route(&mut self, route: &str) {
        self.entry.route = Some(shortened(route, SHORT));
    }
}

impl Drop for OwnedLine {
    fn drop(&mut self) {
        let sid_tag = self.entry.sid_tag.as_deref().and_then(Tag::parse);
        write(&self.log, &self.entry.facts(), sid_tag, &self.trace);
    }
}

/// Most bytes of a name in an [`Entry`].
const SHORT: usize = 128;

fn tag_of(target: &[u8]) -> Option<Tag> {
    // Hardly any request has one.
    memchr::memmem::find(target, b"sid=")?;
    Query::parse(target).sid.and_then(|sid| Tag::of_sid(&sid))
}

/// The same of a request that outlives its head: a tunnel's, which may go to another process, or one that Pingora carries.
/// Bounded: a transfer has little room.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::gateway) struct Entry {
    client: Option<IpAddr>,
    secure: bool,
    protocol: String,
    method: String,
    /// Without the secrets of its query.
    target: String,
    host: String,
    user_agent: Option<String>,
    referer: Option<String>,
    app: Option<String>,
    route: Option<String>,
    request_id: Option<String>,
    tls_version: Option<String>,
    tls_cipher: Option<String>,
    upgrade: bool,
    slot: Option<u16>,
    generation: u32,
    socket: String,
    sid_tag: Option<String>,
    retries: u16,
    queue_us: Option<u64>,
    connect_us: Option<u64>,
    first_byte_us: Option<u64>,
    /// When the request began, in milliseconds since 1970.
    began_ms: u64,
    /// What has passed so far.
    received: u64,
    sent: u64,
}

impl Entry {
    fn new(log: &AccessLog, facts: &Facts<'_>, trace: &Trace) -> Entry {
        let times = trace.times();
        let micros = |time: Option<Duration>| time.map(|time| time.as_micros() as u64);
        let began = SystemTime::now().checked_sub(times.total).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let worker = trace.worker.as_deref();
        let text = |bytes: &[u8], most| shortened(&String::from_utf8_lossy(bytes), most);
        let short = |text: Option<&str>| text.map(|text| shortened(text, SHORT));
        Entry {
            client: facts.client,
            secure: facts.secure,
            protocol: facts.protocol.to_owned(),
            method: text(facts.method, 64),
            target: text(&log.redacted(facts.target), 1024),
            host: text(facts.host, 256),
            user_agent: facts.user_agent.map(|agent| text(agent, 512)),
            referer: facts.referer.map(|referer| text(&log.redacted(referer), 512)),
            app: short(facts.app),
            route: short(facts.route),
            request_id: facts.request_id.map(|id| text(id, 128)),
            tls_version: short(facts.tls_version),
            tls_cipher: short(facts.tls_cipher),
            upgrade: facts.upgrade,
            slot: worker.map(|worker| worker.id.slot.0),
            generation: worker.map_or(0, |worker| worker.generation().0),
            socket: worker.map(|worker| worker.socket.to_string()).unwrap_or_default(),
            sid_tag: tag_of(facts.target).map(|tag| tag.to_string()),
            retries: trace.retries,
            queue_us: micros(times.queue),
            connect_us: micros(times.connect),
            first_byte_us: micros(times.first_byte),
            began_ms: began.map_or(0, |at| at.as_millis() as u64),
            received: 0,
            sent: 0,
        }
    }

    /// The same with what has passed.
    pub(in crate::gateway) fn with(&self, received: u64, sent: u64) -> Entry {
        Entry { received: self.received + received, sent: self.sent + sent, ..self.clone() }
    }

    /// Writes the line of the tunnel's end.
    pub(in crate::gateway) fn end(&self, log: &AccessLog, reason: &str) {
        let began = UNIX_EPOCH + Duration::from_millis(self.began_ms);
        let bytes = ByteCount { received: self.received, sent: self.sent, head: 0 };
        self.write(log, Some(TunnelLine::End(began, reason)), bytes);
    }

    fn write(&self, log: &AccessLog, tunnel: Option<TunnelLine<'_>>, bytes: ByteCount) {
        let began = UNIX_EPOCH + Duration::from_millis(self.began_ms);
        let time = SystemTime::now();
        let total = time.duration_since(began).unwrap_or_default();
        let micros = |time: Option<u64>| time.map(Duration::from_micros);
        let reason = match tunnel {
            Some(TunnelLine::End(_, reason)) => Some(reason),
            _ => None,
        };
        let facts = self.facts();
        log.write(&Record {
            time,
            facts: &facts,
            worker: self.slot.map(|slot| Worker { slot, generation: self.generation, socket: &self.socket }),
            sid_tag: self.sid_tag.as_deref().and_then(Tag::parse),
            status: 101,
            by: By::Worker,
            reason,
            detail: None,
            times: Times {
                queue: micros(self.queue_us),
                connect: micros(self.connect_us),
                first_byte: micros(self.first_byte_us),
                worker: Some(total.saturating_sub(micros(self.queue_us).unwrap_or_default())),
                total,
            },
            retries: self.retries,
            bytes,
            tunnel,
        });
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            client: self.client,
            secure: self.secure,
            protocol: &self.protocol,
            method: self.method.as_bytes(),
            target: self.target.as_bytes(),
            host: self.host.as_bytes(),
            user_agent: self.user_agent.as_deref().map(str::as_bytes),
            referer: self.referer.as_deref().map(str::as_bytes),
            upgrade: self.upgrade,
            head_bytes: 0,
            app: self.app.as_deref(),
            route: self.route.as_deref(),
            request_id: self.request_id.as_deref().map(str::as_bytes),
            tls_version: self.tls_version.as_deref(),
            tls_cipher: self.tls_cipher.as_deref(),
        }
    }
}

/// At most so many bytes of it, no character cut.
fn shortened(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
