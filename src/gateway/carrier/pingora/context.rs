//! What is known of one request on its way, what its errors mean, and what is counted of it.

use crate::gateway::access::OwnedLine;
use crate::gateway::access::record::{ByteCount, Trace};
use crate::gateway::exchange::session_carrier::NO_RESPONSE;
use crate::gateway::metrics::counters::Failure;
use crate::gateway::places::Place;
use crate::gateway::request::client::RequestClient;
use crate::gateway::request::error_response::ErrorResponse;
use crate::gateway::request::hsts::Hsts;
use crate::gateway::request::limits::RequestLimits;
use crate::gateway::request::request_id::RequestId;
use crate::gateway::request::retry::{self, Attempt, Decision, WorkerFault};
use crate::gateway::request::session::SessionLearner;
use crate::gateway::rules::{App, Rules};
use crate::gateway::upstream::acquire::Tried;
use crate::pool::{Lease, Member, Numbers};
use pingora_core::{Error, ErrorSource, ErrorType};
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

tokio::task_local! {
    /// Told when a stream of HTTP/2 has its whole answer before the end of its request's body.
    pub(super) static ANSWERED_EARLY: Arc<Notify>;
    /// Who asks, where another carrier has found that out, and has counted it.
    pub(super) static ASKER: RequestClient;
    /// What the client's answers say of https.
    pub(super) static HSTS: Option<Hsts>;
}

/// What is known of one request on its way.
#[derive(Default)]
pub(in crate::gateway) struct Ctx {
    pub(super) client: Option<RequestClient>,
    /// Among the requests of its client's address.
    pub(super) place: Option<Place>,
    /// Among the uploads of that.
    pub(super) upload: Option<Place>,
    pub(super) app: Option<Arc<App>>,
    pub(super) limits: Option<RequestLimits>,
    /// Its place in the rules that the request goes by.
    pub(super) route: Option<(Arc<Rules>, usize)>,
    /// What that has taken off the path.
    pub(super) prefix: Option<String>,
    pub(super) began: Option<Instant>,
    /// Held until the response has ended.
    pub(super) lease: Option<Lease>,
    /// The number of the worker's connection, where that is one with HTTP/2.
    number: Option<u64>,
    /// Workers that could not take the request.
    pub(super) tried: Tried,
    pub(super) is_bound: bool,
    pub(super) was_replayed: bool,
    /// The session's worker, once the request was sent again: it goes to no other, which might die of it, too.
    pub(super) owner: Option<Arc<Member>>,
    /// Content bytes of the request so far.
    pub(super) body: u64,
    /// Informational responses of the worker.
    pub(super) informational: u8,
    /// The answer may hold a sid to learn.
    pub(super) learner: Option<SessionLearner>,
    /// The status of the worker's final answer.
    pub(super) status: Option<u16>,
    pub(super) response: Option<ErrorResponse>,
    pub(super) failure: Option<Failure>,
    /// For the access log.
    pub(super) line: Option<Box<OwnedLine>>,
    answered_early: Option<Arc<Notify>>,
}

impl Ctx {
    pub(super) fn new() -> Ctx {
        let mut ctx = Ctx::default();
        ctx.client = ASKER.try_with(|client| *client).ok();
        ctx.answered_early = ANSWERED_EARLY.try_with(Arc::clone).ok();
        ctx
    }

    /// The proxy answers itself.
    pub(super) fn refuse(&mut self, response: ErrorResponse, failure: Failure) -> Box<Error> {
        self.response = Some(response);
        self.failure = Some(failure);
        Error::explain(ErrorType::HTTPStatus(response.status), response.detail)
    }

    /// The id that the answer names its request by.
    pub(super) fn id(&self) -> RequestId {
        self.client.map_or(RequestId::NONE, |client| client.id)
    }

    /// The answer is whole. Where the request is not, Pingora would wait for the rest without a limit.
    pub(super) fn note_answered(&self, session: &mut Session) {
        if let Some(answered_early) = &self.answered_early
            && !session.as_downstream_mut().is_body_done()
        {
            answered_early.notify_one();
        }
    }

    /// The number of the connection with HTTP/2 that carries the request: a kept one, or a new one if that has failed.
    pub(super) fn number(&mut self, member: &Member) -> u64 {
        let number = if self.number.is_some() { Numbers::fresh() } else { member.numbers.take() };
        *self.number.insert(number)
    }

    /// Request and answer are whole: the worker's connection may carry another one. After anything else it may not.
    /// Pingora keeps it even so, and a worker may refuse all that follows: Node.js counts what it had still to send on a
    /// stream that was reset for ever, and at 10 MiB resets each new stream of the connection with ENHANCE_YOUR_CALM.
    pub(super) fn keep_connection(&mut self) {
        if let (Some(number), Some(lease)) = (self.number.take(), &self.lease) {
            lease.member().numbers.put(number);
        }
    }

    /// What an error says of the worker; `None` where it is the client's.
    pub(super) fn worker_fault(&self, error: &Error) -> Option<WorkerFault> {
        if *error.etype() == ErrorType::Custom(NO_RESPONSE) {
            return Some(WorkerFault::NoResponse);
        }
        if *error.esource() != ErrorSource::Upstream {
            return None;
        }
        Some(match error.etype() {
            ErrorType::WriteError if self.body == 0 => WorkerFault::Unsent,
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => WorkerFault::NoResponse,
            ErrorType::InvalidHTTPHeader => WorkerFault::Malformed,
            ErrorType::ConnectError | ErrorType::ConnectTimedout | ErrorType::ConnectRefused => {
                WorkerFault::Unreachable
            }
            _ => WorkerFault::Died,
        })
    }

    /// Whether the request is sent again, by the rule that holds for every carrier.
    pub(super) fn judge(&mut self, session: &Session, fault: WorkerFault, is_whole: bool, reused: bool) -> bool {
        let attempt = Attempt {
            is_whole,
            is_replayable: retry::is_replayable(session.req_header().method.as_str().as_bytes(), false),
            was_replayed: self.was_replayed,
            is_bound: self.is_bound,
            on_kept_connection: reused,
            reads_at_once: false,
            tried: self.tried.times(),
        };
        match retry::decide(fault, &attempt) {
            Decision::Retry { avoid, is_replay } => {
                self.was_replayed |= is_replay;
                if is_replay && self.is_bound {
                    self.owner = self.lease.as_ref().map(|lease| lease.member().clone());
                }
                if let Some(lease) = self.lease.take()
                    && avoid
                {
                    self.tried.add(lease.member().clone(), fault);
                }
                self.note(Trace::retried);
                if let (Some(app), false) = (&self.app, fault == WorkerFault::Unreachable) {
                    app.metrics.retried();
                }
                true
            }
            Decision::GiveUp(response) => {
                self.response = Some(response);
                self.failure = Some(match fault {
                    WorkerFault::Unreachable | WorkerFault::QueueFull => Failure::NoWorker,
                    WorkerFault::NoResponse => Failure::NoAnswer,
                    WorkerFault::Malformed => Failure::Malformed,
                    WorkerFault::Unsent | WorkerFault::Unread | WorkerFault::Died => Failure::WorkerDied,
                });
                false
            }
        }
    }

    /// What the client is told; `None` when it has left.
    pub(super) fn response_to(&self, error: &Error) -> Option<ErrorResponse> {
        if self.response.is_some() {
            return self.response;
        }
        match error.esource() {
            ErrorSource::Upstream => Some(ErrorResponse::BROKEN),
            ErrorSource::Downstream => match error.etype() {
                ErrorType::ReadTimedout => Some(ErrorResponse::REQUEST_TIMEOUT),
                ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed => None,
                ErrorType::WriteTimedout => None,
                _ => Some(ErrorResponse::new(400, "The request could not be understood.")),
            },
            ErrorSource::Internal | ErrorSource::Unset => {
                Some(ErrorResponse::new(500, "The proxy could not handle this request."))
            }
        }
    }

    /// Notes something for the access log.
    pub(super) fn note(&mut self, what: impl FnOnce(&mut Trace)) {
        if let Some(line) = &mut self.line {
            what(&mut line.trace);
        }
    }

    fn end_line(&mut self, written: Option<u16>, is_whole: bool) {
        let Some(mut line) = self.line.take() else { return };
        let bytes = line.trace.bytes();
        match (self.response, written) {
            (Some(response), None) => line.trace.by_proxy(&response),
            (Some(response), Some(status)) if status == response.status => line.trace.by_proxy(&response),
            // It has been said what the route answered.
            (_, Some(_)) if line.trace.is_by_proxy() => {}
            (_, Some(status)) => line.trace.by_worker(status),
            (None, None) => {}
        }
        line.trace.moved(ByteCount { received: self.body, ..bytes });
        if !is_whole {
            line.trace.failed(self.failure.unwrap_or(Failure::ClientGone));
        }
    }

    /// The request is over. `written` is the status that its client got.
    pub(super) fn count(&mut self, written: Option<u16>, is_whole: bool) {
        (self.place, self.upload) = (None, None);
        self.lease = None;
        self.end_line(written, is_whole);
        let Some(app) = self.app.take() else { return };
        if !is_whole {
            app.metrics.failed(self.failure.unwrap_or(Failure::ClientGone));
        }
        if let Some(status) = written {
            let began = self.began.filter(|_| is_whole);
            app.metrics.answered(status, began.map(|began| began.elapsed()));
        }
    }
}

impl Drop for Ctx {
    /// A stream that was answered early and is given up does not come to its end, nor one whose client left while the
    /// worker was waited for.
    fn drop(&mut self) {
        self.began = None;
        self.count(self.status, self.status.is_some());
    }
}
