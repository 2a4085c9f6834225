//! Whether a request goes to another worker: one rule for every carrier.
//!
//! - Where no worker can have acted on a request, it goes to another one, up to [`MAX_TRIES`] in all.
//! - Where one may have acted on it, it is sent again only if acting twice does no harm ([`is_replayable`]), and only
//!   once.
//!
//! So a request that crashes its workers ends one of them, or two if it is replayable, and never the whole pool.

use super::error_response::ErrorResponse;

/// How many workers a request is offered to.
pub(in crate::gateway) const MAX_TRIES: usize = 4;

/// Why a worker did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum WorkerFault {
    /// It cannot be connected to.
    Unreachable,
    /// Its queue of connections is full: it lives, and its sessions must not be tried elsewhere.
    QueueFull,
    /// Not a byte of the request has left.
    Unsent,
    /// It ended the connection, and what was sent last lay unread: a Unix socket says so by a reset.
    Unread,
    /// It ended the connection before it answered.
    Died,
    /// It did not begin to answer in time.
    NoResponse,
    /// Its answer cannot be understood.
    Malformed,
}

/// What is known of the request when a worker did not answer.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct Attempt {
    /// Everything that was sent is at hand and can be sent again; no final answer has begun.
    pub(in crate::gateway) is_whole: bool,
    /// See [`is_replayable`].
    pub(in crate::gateway) is_replayable: bool,
    /// It was sent again before although a worker may have acted on it.
    pub(in crate::gateway) was_replayed: bool,
    /// A session names its worker.
    pub(in crate::gateway) is_bound: bool,
    /// It went out on a kept connection, which may have ended without a word about the worker.
    pub(in crate::gateway) on_kept_connection: bool,
    /// The worker reads all there is at once (Node.js with the preload script): what lay unread, it has not seen.
    pub(in crate::gateway) reads_at_once: bool,
    /// Workers that could not take it so far.
    pub(in crate::gateway) tried: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Decision {
    /// Once more.
    Retry {
        /// Not to the same worker.
        avoid: bool,
        /// A worker may have acted on it: not again after this.
        is_replay: bool,
    },
    /// The client gets this.
    GiveUp(ErrorResponse),
}

/// Whether a request may be sent a second time after its first worker died without an answer: idempotent methods
/// (RFC 9110, section 9.2.2), but no upgrade, which opens a conversation.
pub(in crate::gateway) fn is_replayable(method: &[u8], upgrade: bool) -> bool {
    !upgrade && matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}

/// Decides whether the request is sent again, and where, or what the client gets.
pub(in crate::gateway) fn decide(fault: WorkerFault, attempt: &Attempt) -> Decision {
    let Attempt { is_whole, is_replayable, was_replayed, is_bound, on_kept_connection, reads_at_once, tried } =
        *attempt;
    let retry = |avoid, is_replay| match avoid && tried + 1 >= MAX_TRIES {
        true => Decision::GiveUp(response(fault)),
        false => Decision::Retry { avoid, is_replay },
    };
    // A session's owner is asked again on a new connection; anything else is better off elsewhere.
    let may_replay = is_whole && is_replayable && !was_replayed && (on_kept_connection || !is_bound);
    match fault {
        // Its session's owner had read it and ended: nobody else is to follow.
        WorkerFault::Unreachable if is_bound && was_replayed => Decision::GiveUp(ErrorResponse::BROKEN),
        WorkerFault::Unreachable => retry(true, false),
        WorkerFault::Unsent if is_whole => retry(!on_kept_connection, false),
        WorkerFault::Unread if is_whole && reads_at_once => retry(true, false),
        // A kept connection that ended says nothing of the worker: it may be the only one.
        WorkerFault::Died | WorkerFault::Unread if may_replay => retry(!is_bound && !on_kept_connection, true),
        WorkerFault::QueueFull
        | WorkerFault::Unsent
        | WorkerFault::Unread
        | WorkerFault::Died
        | WorkerFault::NoResponse
        | WorkerFault::Malformed => Decision::GiveUp(response(fault)),
    }
}

/// What the client is told when no other worker is asked.
fn response(fault: WorkerFault) -> ErrorResponse {
    match fault {
        WorkerFault::Unreachable | WorkerFault::QueueFull => ErrorResponse::NO_WORKER,
        WorkerFault::Unsent | WorkerFault::Unread | WorkerFault::Died | WorkerFault::Malformed => ErrorResponse::BROKEN,
        WorkerFault::NoResponse => ErrorResponse::NO_ANSWER,
    }
}

#[cfg(test)]
mod tests {
    use super::WorkerFault::*;
    use super::*;

    const GET: Attempt = Attempt {
        is_whole: true,
        is_replayable: true,
        was_replayed: false,
        is_bound: false,
        on_kept_connection: false,
        reads_at_once: true,
        tried: 0,
    };
    const POST: Attempt = Attempt { is_replayable: false, ..GET };
    const ELSEWHERE: Decision = Decision::Retry { avoid: true, is_replay: false };
    const REPLAY: Decision = Decision::Retry { avoid: true, is_replay: true };
    const BROKEN: Decision = Decision::GiveUp(ErrorResponse::BROKEN);

    #[test]
    fn the_rule_by_fault() {
        let cases = [
            ("nobody was reached", Unreachable, POST, ELSEWHERE),
            ("its owner died of it", Unreachable, Attempt { is_bound: true, was_replayed: true, ..GET }, BROKEN),
            ("it lives, and is busy", QueueFull, GET, Decision::GiveUp(ErrorResponse::NO_WORKER)),
            ("nothing left", Unsent, POST, ELSEWHERE),
            (
                "a kept connection had ended",
                Unsent,
                Attempt { on_kept_connection: true, ..POST },
                Decision::Retry { avoid: false, is_replay: false },
            ),
            ("it was not seen", Unread, POST, ELSEWHERE),
            ("nobody knows whether it was seen", Unread, Attempt { reads_at_once: false, ..POST }, BROKEN),
            ("idempotent, once", Died, GET, REPLAY),
            (
                "idempotent, and maybe it was the connection",
                Died,
                Attempt { on_kept_connection: true, ..GET },
                Decision::Retry { avoid: false, is_replay: true },
            ),
            ("once is enough", Died, Attempt { was_replayed: true, ..GET }, BROKEN),
            ("not idempotent", Died, POST, BROKEN),
            ("streamed", Died, Attempt { is_whole: false, ..GET }, BROKEN),
            ("only its owner can serve it", Died, Attempt { is_bound: true, ..GET }, BROKEN),
            (
                "its owner, on another connection",
                Died,
                Attempt { is_bound: true, on_kept_connection: true, ..GET },
                Decision::Retry { avoid: false, is_replay: true },
            ),
            ("silence is no answer", NoResponse, GET, Decision::GiveUp(ErrorResponse::NO_ANSWER)),
            ("no second opinion", Malformed, GET, BROKEN),
            (
                "the last try",
                Unreachable,
                Attempt { tried: MAX_TRIES - 1, ..POST },
                Decision::GiveUp(ErrorResponse::NO_WORKER),
            ),
        ];
        for (what, fault, attempt, expected) in cases {
            assert_eq!(decide(fault, &attempt), expected, "{what}");
        }
    }

    #[test]
    fn an_upgrade_is_never_replayed() {
        assert!(is_replayable(b"GET", false) && !is_replayable(b"GET", true) && !is_replayable(b"POST", false));
    }
}
