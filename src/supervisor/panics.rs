//! A panic of the event loop is caught, and the loop goes on with the state it has; many in a row end it.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Panics in a row after which the supervisor gives up, and how long a row lasts.
const PANICS_MAX: usize = 5;
const PANICS_WINDOW: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Panics(Vec<Instant>);

impl Panics {
    /// Counts one that said `text`.
    ///
    /// # Errors
    /// It was one too many; says so for people.
    pub(super) fn count(&mut self, text: &str) -> Result<(), String> {
        log::error!("the supervisor panicked and goes on: {text}");
        self.0.retain(|at| at.elapsed() < PANICS_WINDOW);
        self.0.push(Instant::now());
        match self.0.len() < PANICS_MAX {
            true => Ok(()),
            false => Err(format!("the supervisor panicked {PANICS_MAX} times within {PANICS_WINDOW:?}: {text}")),
        }
    }
}

/// Runs to the end, or to a panic, whose text is the error.
pub(super) async fn catch<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let mut work = pin!(work);
    // What a panic leaves behind is checked by the fleet's own rules at the next step.
    std::future::poll_fn(|cx| match std::panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(describe(&*panic))),
    })
    .await
}

fn describe(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
