//! Learns which worker owns a session whose id does not say so, from the answer to its handshake.

use super::socketio;
use crate::gateway::http1::{Body, response};
use crate::pool::{Member, Pool};
use std::sync::Arc;

/// How much of a handshake answer is looked at for its sid, in bytes.
const HANDSHAKE_LOOK: usize = 1024;

/// Learns the owner of the sid that a handshake answer begins with, before its bytes leave.
pub(in crate::gateway) struct SessionLearner {
    pool: Arc<Pool>,
    owner: Arc<Member>,
    looking: bool,
    /// The first line of a chunked body is the chunk's size.
    skip_line: bool,
    early: Vec<u8>,
}

impl SessionLearner {
    pub(in crate::gateway) fn new(pool: &Arc<Pool>, owner: &Arc<Member>) -> Self {
        SessionLearner { pool: pool.clone(), owner: owner.clone(), looking: true, skip_line: false, early: Vec::new() }
    }

    /// An HTTP/1 worker's head came; its body is given with its chunk framing if it has any.
    pub(in crate::gateway) fn response_head(&mut self, head: &response::Head, buf: &[u8]) {
        let encoded = head.headers(buf).all("content-encoding").next().is_some();
        self.begin(head.status == 200 && !encoded, head.body == Body::Chunked);
        head.headers(buf).all("set-cookie").for_each(|value| self.set_cookie(value));
    }

    /// The answer's head came: is there anything to learn, and is its body chunked here?
    pub(in crate::gateway) fn begin(&mut self, readable: bool, chunked: bool) {
        self.looking &= readable;
        self.skip_line = chunked;
    }

    /// Socket.IO 1 and 2 also say the sid in a cookie, where a JSONP answer may not hold it.
    pub(in crate::gateway) fn set_cookie(&mut self, value: &[u8]) {
        if self.looking
            && let Some(sid) = socketio::sid_in_set_cookie(value)
        {
            self.pool.learn(&sid, &self.owner);
        }
    }

    /// Looks at the next bytes of the body.
    pub(in crate::gateway) fn body(&mut self, bytes: &[u8]) {
        if !self.looking || bytes.is_empty() {
            return;
        }
        let room = HANDSHAKE_LOOK.saturating_sub(self.early.len()).min(bytes.len());
        self.early.extend_from_slice(&bytes[..room]);
        let start = match memchr::memchr(b'\n', &self.early).filter(|_| self.skip_line) {
            Some(end) => &self.early[end + 1..],
            None if self.skip_line => return,
            None => &self.early[..],
        };
        match socketio::sid_in_handshake(start) {
            socketio::Look::Found(sid) => {
                self.pool.learn(&sid, &self.owner);
                self.looking = false;
            }
            socketio::Look::NeedMore if self.early.len() < HANDSHAKE_LOOK => {}
            _ => self.looking = false,
        }
    }
}
