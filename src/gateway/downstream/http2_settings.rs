//! What an HTTP/2 client is granted, whoever serves it.

/// Requests of one connection at a time.
pub(in crate::gateway) const MAX_STREAMS: u32 = 100;
/// What a client may send of one body, and of all, before a worker has taken it, in bytes.
pub(in crate::gateway) const STREAM_WINDOW: u32 = 256 * 1024;
pub(in crate::gateway) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of a stream's answer that wait for a client to take them.
pub(in crate::gateway) const SEND_BUFFER: usize = 64 * 1024;
/// HPACK's bookkeeping counts 32 bytes a field (RFC 7541, section 4.1), which the limit of a head does not.
const HEADER_LIST_SPARE: usize = 8 * 1024;

/// What is read of a head before the rules see it, in bytes of HPACK's count, where `head_bytes` are allowed.
pub(in crate::gateway) fn header_list_size(head_bytes: usize) -> u32 {
    u32::try_from(head_bytes + HEADER_LIST_SPARE).unwrap_or(u32::MAX)
}
