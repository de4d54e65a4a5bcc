//! Bounds that are part of the protocol: both sides know them, neither configures them.

/// A topic's or filter's longest form, in bytes of UTF-8.
pub const TOPIC_BYTES: usize = 255;
/// The most tokens a topic or filter may have.
pub const TOPIC_TOKENS: usize = 16;
/// A stream's longest name, in bytes.
pub const STREAM_NAME_BYTES: usize = 64;
/// The deepest a JSON payload, and a JSON frame around it, may nest. `serde_json`'s `RawValue` has no
/// limit of its own, so a broker that forwards raw values would forward a depth bomb.
pub const JSON_DEPTH: usize = 64;
/// The longest message key, in bytes.
pub const KEY_BYTES: usize = 255;
/// The most headers of a message.
pub const HEADERS: usize = 16;
/// All header names and values of a message together, in bytes.
pub const HEADER_BYTES: usize = 4096;
/// The longest idempotency key, in bytes.
pub const IDEMPOTENCY_BYTES: usize = 64;
/// The longest `client`, `instance` or connection id, in bytes.
pub const ID_BYTES: usize = 128;
/// The longest token, in bytes.
pub const TOKEN_BYTES: usize = 8192;
/// The most positions in one list (`from`, `at`): one for each stream a filter can span.
pub const POSITIONS: usize = 64;
/// Ids, offsets, times and counts stay below 2^53, so that JavaScript's numbers hold them.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// A payload's largest size unless the operator says otherwise, in bytes.
pub const DEFAULT_PAYLOAD_BYTES: usize = 64 * 1024;
/// A client's largest WebSocket message over all its fragments unless the operator says otherwise, in bytes.
pub const DEFAULT_CLIENT_MESSAGE_BYTES: usize = 128 * 1024;
/// A WebSocket message with several frames is cut at this size; a larger frame goes alone. In bytes.
pub const BURST_BYTES: usize = 16 * 1024;
/// A subscription's bound in messages where it names none.
pub const DEFAULT_LIMIT: u32 = 256;
/// A subscription's bound in bytes where it names none.
pub const DEFAULT_LIMIT_BYTES: u32 = 256 * 1024;
