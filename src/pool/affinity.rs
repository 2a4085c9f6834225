//! The rule that leads a request to the worker that owns its session.

/// What binds a client's requests to one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Affinity {
    /// Engine.IO session ids; requests without one are balanced.
    #[default]
    SocketIo,
    /// Every request is balanced by itself.
    None,
    /// Consistent hash of this cookie's value.
    Cookie(String),
    /// Consistent hash of this request header's value.
    Header(String),
    /// Consistent hash of this query parameter's value.
    Query(String),
    /// Consistent hash of this segment of the path, from 1: the room that several clients share.
    Path(u8),
    /// Consistent hash of the client's IP address.
    ClientAddress,
}

/// How requests without a session are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Balance {
    /// The worker with the fewest requests in flight, then the fewest sessions.
    #[default]
    LeastLoaded,
    RoundRobin,
}
