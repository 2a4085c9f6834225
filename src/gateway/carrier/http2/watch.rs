//! What is known of a stream that another carrier serves, and for how long each side of it has been waited for. The
//! session tells as it is asked for one or the other; the stream's task looks.

use super::answer::Answer;
use crate::gateway::downstream::deadline::Deadline;
use crate::gateway::exchange::client::ResponseFault;
use crate::gateway::request::limits::{BodyOf, RateMeter, RequestLimits};
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use tokio::time::Instant;

/// Who has had its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// The client, to send its request.
    Request,
    /// The client, to take its answer.
    Answer,
    /// The worker, to begin the answer.
    Worker,
}

/// Why a stream ends before the other carrier has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client has reset it.
    Gone,
    /// Its answer is whole, and the rest of the request is not wanted.
    Answered,
    /// The carrier did not hear of it.
    Overdue(Overdue),
}

/// Why the session cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionFault {
    Gone,
    Overdue(Overdue),
}

pub(super) struct Watch {
    pub(super) answer: Answer,
    limits: RequestLimits,
    /// The head says how long the request's body is.
    has_length: bool,
    /// Content bytes of the request so far.
    taken: u64,
    request_is_whole: bool,
    /// A worker has the request's head.
    was_asked: bool,
    /// The carrier waits for more of the request.
    wants_body: bool,
    /// A part of the answer waits for the client's window; before that, for the stream's turn.
    wants_window: bool,
    has_turn: bool,
    upload: Option<Instant>,
    response: Option<Instant>,
    download: Option<Instant>,
    upload_rate: RateMeter,
    download_rate: RateMeter,
    deadline: Deadline,
    overdue: Option<Overdue>,
    /// The carrier has heard of it, and winds up.
    was_told: bool,
}

#[derive(Clone)]
pub(super) struct SharedWatch(Arc<Mutex<Watch>>);

impl SharedWatch {
    pub(super) fn new(watch: Watch) -> SharedWatch {
        SharedWatch(Arc::new(Mutex::new(watch)))
    }

    /// One task runs both sides, so it is free. Nothing panics while it is held.
    pub(super) fn lock(&self) -> MutexGuard<'_, Watch> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Watch {
    /// `is_whole`: the request has no body.
    pub(super) fn new(answer: Answer, limits: RequestLimits, has_length: bool, is_whole: bool) -> Watch {
        Watch {
            answer,
            limits,
            has_length,
            taken: 0,
            request_is_whole: is_whole,
            was_asked: false,
            wants_body: false,
            wants_window: false,
            has_turn: false,
            upload: None,
            response: None,
            download: None,
            upload_rate: RateMeter::default(),
            download_rate: RateMeter::default(),
            deadline: Deadline::default(),
            overdue: None,
            was_told: false,
        }
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// A worker is about to get the request's body: from here on it is waited for.
    pub(super) fn note_asked(&mut self) {
        self.was_asked = true;
        (self.upload, self.response) = (None, None);
    }

    fn check(&mut self, wanted: impl FnOnce(Overdue) -> bool) -> Result<(), SessionFault> {
        match self.overdue {
            Some(Overdue::Worker) if self.answer.has_begun() => Ok(()),
            Some(overdue) if wanted(overdue) => {
                (self.was_told, self.wants_window) = (true, false);
                Err(SessionFault::Overdue(overdue))
            }
            _ => Ok(()),
        }
    }

    fn gone(&mut self) -> SessionFault {
        self.answer.gone();
        SessionFault::Gone
    }

    /// More of the request's body; `None` at its end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut RecvStream,
    ) -> Poll<Result<Option<Bytes>, SessionFault>> {
        self.check(|overdue| overdue != Overdue::Answer)?;
        self.wants_body = false;
        match body.poll_data(cx) {
            Poll::Ready(Some(Ok(content))) => {
                self.taken += content.len() as u64;
                (self.upload, self.response) = (None, None);
                let _ = body.flow_control().release_capacity(content.len());
                self.request_is_whole = body.is_end_stream();
                Poll::Ready(Ok(Some(content)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Err(self.gone())),
            Poll::Ready(None) => {
                self.request_is_whole = true;
                (self.upload, self.response) = (None, None);
                Poll::Ready(Ok(None))
            }
            Poll::Pending => {
                self.wants_body = true;
                Poll::Pending
            }
        }
    }

    /// The request is whole: only that the client leaves is news.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<SessionFault> {
        if let Err(fault) = self.check(|overdue| overdue != Overdue::Answer) {
            return Poll::Ready(fault);
        }
        (self.wants_body, self.request_is_whole) = (false, true);
        self.answer.poll_reset(cx).map(|()| SessionFault::Gone)
    }

    /// Sends content of the answer; with the last of it the end, if `ends`.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        content: &mut BytesMut,
        ends: bool,
    ) -> Poll<Result<(), SessionFault>> {
        self.check(|overdue| overdue == Overdue::Answer)?;
        self.wants_body = false;
        if content.is_empty() {
            let ended = if ends { self.answer.end(HeaderMap::new()) } else { Ok(()) };
            return Poll::Ready(ended.map_err(|_| SessionFault::Gone));
        }
        if !self.has_turn {
            ready!(self.answer.poll_turn(cx));
            self.has_turn = true;
        }
        let before = self.answer.sent();
        let sent = self.answer.poll_send(cx, content, ends);
        if self.answer.sent() != before {
            self.download = None;
        }
        self.wants_window = sent.is_pending();
        self.has_turn = sent.is_pending();
        sent.map_err(|_: ResponseFault| SessionFault::Gone)
    }

    /// Looks after the carrier has done what it can.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.answer.poll_reset(cx).is_ready() {
            return Poll::Ready(End::Gone);
        }
        if self.answer.has_ended() && !self.request_is_whole {
            return Poll::Ready(End::Answered);
        }
        let Poll::Ready(overdue) = self.poll_overdue(cx) else {
            if !self.was_told {
                // What was late has come.
                self.overdue = None;
            }
            return Poll::Pending;
        };
        if self.overdue.replace(overdue) == Some(overdue) {
            // The carrier is waiting for something else.
            return Poll::Ready(End::Overdue(overdue));
        }
        // It hears of it where it waits for this client.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<Overdue> {
        let now = Instant::now();
        let mut next = Next::default();
        self.of_answer(now, &mut next);
        if self.was_asked && !self.was_told {
            self.of_request(now, &mut next);
        }
        let Some((at, overdue)) = next.0 else { return Poll::Pending };
        if let (true, Some(overdue)) = (now >= at, overdue) {
            return Poll::Ready(overdue);
        }
        ready!(self.deadline.poll_at(cx, at));
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The client that takes the answer.
    fn of_answer(&mut self, now: Instant, next: &mut Next) {
        let RequestLimits { body_bytes: _, body_timeout, body_rate: _, response_timeout: _, poll_timeout: _ } =
            self.limits;
        if !self.wants_window {
            self.download = None;
            return self.download_rate.pause();
        }
        next.limit(*self.download.get_or_insert(now) + body_timeout, Overdue::Answer);
        match self.download_rate.look(&self.limits, BodyOf::Response, self.answer.sent(), now) {
            Ok(look) => next.look(look),
            Err(_) => next.limit(now, Overdue::Answer),
        }
    }

    /// The client that sends the request, else the worker that is to answer it. A body without a length may be a
    /// conversation (gRPC): it has no least rate, and may be silent for long once the answer has begun.
    fn of_request(&mut self, now: Instant, next: &mut Next) {
        let RequestLimits { body_bytes: _, body_timeout, body_rate: _, response_timeout, poll_timeout: _ } =
            self.limits;
        if !self.wants_body {
            self.upload = None;
            self.upload_rate.pause();
            if !self.answer.has_begun() {
                next.limit(*self.response.get_or_insert(now) + response_timeout, Overdue::Worker);
            }
            return;
        }
        let since = *self.upload.get_or_insert(now);
        if self.has_length || !self.answer.has_begun() {
            next.limit(since + body_timeout, Overdue::Request);
        }
        if self.has_length {
            match self.upload_rate.look(&self.limits, BodyOf::Request, self.taken, now) {
                Ok(look) => next.look(look),
                Err(_) => next.limit(now, Overdue::Request),
            }
        }
    }
}

/// When to look again, and who is overdue then.
#[derive(Default)]
struct Next(Option<(Instant, Option<Overdue>)>);

impl Next {
    fn limit(&mut self, at: Instant, overdue: Overdue) {
        self.add(at, Some(overdue));
    }

    /// The window of a rate ends.
    fn look(&mut self, at: Option<Instant>) {
        at.into_iter().for_each(|at| self.add(at, None));
    }

    fn add(&mut self, at: Instant, overdue: Option<Overdue>) {
        if self.0.is_none_or(|(earliest, _)| at < earliest) {
            self.0 = Some((at, overdue));
        }
    }
}
