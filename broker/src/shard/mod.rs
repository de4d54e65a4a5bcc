//! A thread that owns connections.

pub mod index;
