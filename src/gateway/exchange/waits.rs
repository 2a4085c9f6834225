//! Since when each side of an exchange has been waited for, and for how long it may be.

use super::client::{ClientFault, ClientHalf, HALF_CLOSED_TIMEOUT, Presence};
use super::fault::Fault;
use super::upload::Upload;
use crate::gateway::request::limits::{BodyOf, RateMeter, RequestLimits, TooSlow};
use crate::gateway::request::retry::WorkerFault;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks whether a client whose bytes are not read is still there.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Waits {
    limits: RequestLimits,
    /// Since when the client has been waited for to send more of its body.
    upload: Option<Instant>,
    /// Since when the worker has been waited for, to take more of the request or to begin its answer.
    response: Option<Instant>,
    /// Since when the client has been waited for to take more of the answer.
    download: Option<Instant>,
    /// Since when a client that sends no more has got nothing.
    half_closed: Option<Instant>,
    /// When to look next whether the client is there.
    presence: Option<Instant>,
    /// Since when the kernel has said that the client sends no more, while the worker took nothing.
    ended: Option<Instant>,
    upload_rate: RateMeter,
    download_rate: RateMeter,
}

/// The limit that is reached first.
#[derive(Default)]
struct Next(Option<(Instant, Fault)>);

impl Next {
    fn limit(&mut self, at: Instant, fault: Fault) {
        if self.0.is_none_or(|(earliest, _)| at < earliest) {
            self.0 = Some((at, fault));
        }
    }
}

impl Waits {
    pub(super) fn new(limits: RequestLimits) -> Waits {
        Waits {
            limits,
            upload: None,
            response: None,
            download: None,
            half_closed: None,
            presence: None,
            ended: None,
            upload_rate: RateMeter::default(),
            download_rate: RateMeter::default(),
        }
    }

    /// Bytes of the request have moved (`up`), or of the response (`down`).
    pub(super) fn moved(&mut self, up: bool, down: bool) {
        if up {
            (self.upload, self.response) = (None, None);
        }
        if down {
            // `response` goes on: a part of a head, or a 1xx, is no answer.
            (self.download, self.half_closed) = (None, None);
        }
        self.ended = None;
    }

    /// Ready when something has been waited for too long. `has_answered`: the final answer has begun.
    pub(super) fn poll<C: ClientHalf>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        upload: &mut Upload,
        has_answered: bool,
    ) -> Poll<Result<(), Fault>> {
        let now = Instant::now();
        self.look_for_client(client, upload, now)?;
        let mut next = Next::default();
        if upload.client_has_ended() {
            let since = *self.half_closed.get_or_insert(now);
            next.limit(since + HALF_CLOSED_TIMEOUT, Fault::Client(ClientFault::Gone));
        }
        self.of_download(client, now, &mut next)?;
        self.of_upload(client, upload, has_answered, now, &mut next)?;
        if let Some(at) = self.presence
            && next.0.is_none_or(|(earliest, _)| at < earliest)
        {
            ready!(client.deadline().poll_at(cx, at));
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some((at, fault)) = next.0 else { return Poll::Pending };
        ready!(client.deadline().poll_at(cx, at));
        // The timer may have been behind: then look again with the time that it is.
        if now >= at && self.is_over(fault, now) {
            return Poll::Ready(Err(fault));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The wait for the client to take the response.
    fn of_download<C: ClientHalf>(&mut self, client: &C, now: Instant, next: &mut Next) -> Result<(), Fault> {
        let RequestLimits { body_bytes: _, body_timeout, body_rate: _, response_timeout: _, poll_timeout: _ } =
            self.limits;
        if client.has_pending() {
            let since = *self.download.get_or_insert(now);
            next.limit(since + body_timeout, Fault::ClientStalled);
            match self.download_rate.look(&self.limits, BodyOf::Response, client.sent(), now) {
                Ok(at) => at.into_iter().for_each(|at| next.limit(at, Fault::ClientStalled)),
                Err(TooSlow) => return Err(Fault::ClientStalled),
            }
        } else {
            self.download = None;
            self.download_rate.pause();
        }
        Ok(())
    }

    /// The wait for the client to send the request, else for the worker to answer it.
    fn of_upload<C: ClientHalf>(
        &mut self,
        client: &C,
        upload: &Upload,
        has_answered: bool,
        now: Instant,
        next: &mut Next,
    ) -> Result<(), Fault> {
        let RequestLimits { body_bytes: _, body_timeout, body_rate: _, response_timeout, poll_timeout: _ } =
            self.limits;
        if upload.wants_body() {
            let since = *self.upload.get_or_insert(now);
            next.limit(since + body_timeout, Fault::BodyTimeout);
            match self.upload_rate.look(&self.limits, BodyOf::Request, client.body_taken(), now) {
                Ok(at) => at.into_iter().for_each(|at| next.limit(at, Fault::BodyTimeout)),
                Err(TooSlow) => return Err(Fault::BodyTimeout),
            }
        } else {
            self.upload = None;
            self.upload_rate.pause();
            // Once it has begun, an answer takes the time it takes: event streams may be silent for long.
            if !has_answered && !upload.client_has_ended() {
                let since = *self.response.get_or_insert(now);
                next.limit(since + response_timeout, Fault::Worker(WorkerFault::NoResponse));
            }
        }
        Ok(())
    }

    /// Whether a limit is reached, and not only the end of a rate's window, which the rate's next look judges.
    fn is_over(&self, fault: Fault, now: Instant) -> bool {
        let overdue = |since: Option<Instant>| since.is_some_and(|since| now >= since + self.limits.body_timeout);
        match fault {
            Fault::ClientStalled => overdue(self.download),
            Fault::BodyTimeout => overdue(self.upload),
            _ => true,
        }
    }

    /// Nothing that is read would tell that the client has left: the kernel is asked from time to time.
    fn look_for_client<C: ClientHalf>(&mut self, client: &C, upload: &mut Upload, now: Instant) -> Result<(), Fault> {
        let is_blocked = upload.is_blocked();
        if !is_blocked && !client.is_unread() {
            self.presence = None;
            return Ok(());
        }
        let at = *self.presence.get_or_insert(now + PRESENCE_INTERVAL);
        if now < at {
            return Ok(());
        }
        self.presence = Some(now + PRESENCE_INTERVAL);
        match client.presence() {
            Presence::Here => Ok(()),
            Presence::Gone => Err(ClientFault::Gone.into()),
            // It may have sent all of a body that the worker has not taken yet.
            Presence::Ended if is_blocked => {
                let since = *self.ended.get_or_insert(now);
                if now >= since + self.limits.body_timeout { Err(ClientFault::Gone.into()) } else { Ok(()) }
            }
            Presence::Ended => {
                upload.note_end();
                Ok(())
            }
        }
    }
}
