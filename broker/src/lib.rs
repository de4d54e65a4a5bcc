//! placeholder
pub mod shard;
pub mod stream;
