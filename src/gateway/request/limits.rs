//! The limits of one request.

use std::time::Duration;
use tokio::time::Instant;

/// What one request may ask for and how long it may take. `exchange::waits` and `carrier::pingora` take it apart
/// without `..`, so that a limit that is added does not compile until both say what they do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct RequestLimits {
    /// Bytes of the request's content; 413 beyond.
    pub(in crate::gateway) body_bytes: Option<u64>,
    /// Between two pieces of a body while only the client is waited for: 408 for a request's, a cut for a response's.
    pub(in crate::gateway) body_timeout: Duration,
    /// Least rate of a body while only the client is waited for, in bytes per second; 0: none.
    pub(in crate::gateway) body_rate: u64,
    /// How long the worker is waited for, to take more of the request or to begin its final response; 504 then.
    pub(in crate::gateway) response_timeout: Duration,
    /// The same for a poll of a session that the worker knows of, which waits for the session's next packet: as long as
    /// a WebSocket may be silent.
    pub(in crate::gateway) poll_timeout: Duration,
}

/// Informational responses to one request; a client need not take them, so they must not pile up.
pub(in crate::gateway) const MAX_INFORMATIONAL: u8 = 16;

/// Which way a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum BodyOf {
    Request,
    Response,
}

/// Body bytes that travel with the head and can be sent again. A body that is stated to be no longer is waited for
/// before a worker is asked, so that slow clients hold no worker.
pub(in crate::gateway) const FIRST_BODY: usize = 16 * 1024;

/// How long a request's body is watched before its rate is judged.
const UPLOAD_WINDOW: Duration = Duration::from_secs(5);

impl RequestLimits {
    /// Those of a request that waits for its session's next packet.
    #[must_use]
    pub(in crate::gateway) fn of_poll(self) -> RequestLimits {
        RequestLimits { response_timeout: self.response_timeout.max(self.poll_timeout), ..self }
    }

    /// The time over which the least rate must hold. A client may pause a download, as a player does whose buffer is
    /// full, for as long as it may send nothing at all.
    pub(in crate::gateway) fn rate_window(&self, of: BodyOf) -> Duration {
        match of {
            BodyOf::Request => UPLOAD_WINDOW,
            BodyOf::Response => self.body_timeout,
        }
    }

    /// Whether a body that moved `bytes` within one window is too slow.
    pub(in crate::gateway) fn is_too_slow(&self, of: BodyOf, bytes: u64) -> bool {
        let least = self.body_rate.saturating_mul(self.rate_window(of).as_millis() as u64) / 1000;
        bytes < least
    }
}

/// Follows the rate of one body. Only time in which nothing but the client was waited for counts: a transfer that
/// the worker holds up begins a new window each time.
#[derive(Debug, Default)]
pub(in crate::gateway) struct RateMeter {
    window: Option<(Instant, u64)>,
}

impl RateMeter {
    /// The client is waited for and `total` bytes have moved since the body began. Says whether it is too slow, else
    /// when to look again.
    pub(in crate::gateway) fn look(
        &mut self,
        limits: &RequestLimits,
        of: BodyOf,
        total: u64,
        now: Instant,
    ) -> Result<Option<Instant>, TooSlow> {
        if limits.body_rate == 0 {
            return Ok(None);
        }
        let window = limits.rate_window(of);
        let (since, before) = *self.window.get_or_insert((now, total));
        if now < since + window {
            return Ok(Some(since + window));
        }
        if limits.is_too_slow(of, total.saturating_sub(before)) {
            return Err(TooSlow);
        }
        self.window = Some((now, total));
        Ok(Some(now + window))
    }

    /// Something else is waited for.
    pub(in crate::gateway) fn pause(&mut self) {
        self.window = None;
    }
}

/// Follows a request's body that nobody has taken a part of yet, so that only its client is waited for.
#[derive(Debug, Default)]
pub(in crate::gateway) struct BodyWait {
    since: Option<Instant>,
    rate: RateMeter,
}

impl BodyWait {
    /// Nothing is there, after `total` bytes. Says when to look again, or that the client had its time.
    pub(in crate::gateway) fn look(
        &mut self,
        limits: &RequestLimits,
        total: u64,
        now: Instant,
    ) -> Result<Instant, TooSlow> {
        let end = *self.since.get_or_insert(now) + limits.body_timeout;
        let look = self.rate.look(limits, BodyOf::Request, total, now)?;
        if now >= end { Err(TooSlow) } else { Ok(look.map_or(end, |look| look.min(end))) }
    }

    /// Something came.
    pub(in crate::gateway) fn moved(&mut self) {
        self.since = None;
    }
}

/// A body that moves below the least rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct TooSlow;

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(body_rate: u64) -> RequestLimits {
        let second = Duration::from_secs(1);
        let (body_timeout, response_timeout, poll_timeout) = (60 * second, 60 * second, 3600 * second);
        RequestLimits { body_bytes: None, body_timeout, body_rate, response_timeout, poll_timeout }
    }

    #[test]
    fn a_rate_is_judged_per_window() {
        let (limits, start) = (limits(100), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = RateMeter::default();
        assert_eq!(meter.look(&limits, BodyOf::Request, 0, at(0)), Ok(Some(at(5))));
        assert_eq!(meter.look(&limits, BodyOf::Request, 10, at(4)), Ok(Some(at(5))));
        assert_eq!(meter.look(&limits, BodyOf::Request, 500, at(5)), Ok(Some(at(10))));
        assert_eq!(meter.look(&limits, BodyOf::Request, 999, at(10)), Err(TooSlow));
        // A pause begins a new window.
        meter.pause();
        assert_eq!(meter.look(&limits, BodyOf::Request, 999, at(10)), Ok(Some(at(15))));
    }

    #[test]
    fn a_download_may_pause_as_long_as_it_may_be_silent() {
        let (limits, start) = (limits(100), Instant::now());
        let mut meter = RateMeter::default();
        let until = meter.look(&limits, BodyOf::Response, 0, start);
        assert_eq!(until, Ok(Some(start + Duration::from_secs(60))));
    }

    #[test]
    fn a_body_is_waited_for_between_its_pieces_and_by_its_rate() {
        let (limits, start) = (limits(100), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut wait = BodyWait::default();
        assert_eq!(wait.look(&limits, 0, at(0)), Ok(at(5)));
        wait.moved();
        assert_eq!(wait.look(&limits, 500, at(5)), Ok(at(10)));
        wait.moved();
        assert_eq!(wait.look(&limits, 501, at(10)), Err(TooSlow));
        let limits = RequestLimits { body_rate: 0, ..limits };
        let mut wait = BodyWait::default();
        assert_eq!(wait.look(&limits, 0, at(0)), Ok(at(60)));
        wait.moved();
        assert_eq!(wait.look(&limits, 1, at(59)), Ok(at(119)));
        assert_eq!(wait.look(&limits, 1, at(119)), Err(TooSlow));
    }

    #[test]
    fn no_rate_no_judgement() {
        let mut meter = RateMeter::default();
        assert_eq!(meter.look(&limits(0), BodyOf::Request, 0, Instant::now()), Ok(None));
    }
}
