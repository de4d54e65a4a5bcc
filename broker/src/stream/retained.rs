//! The newest message of each topic, once the log has let go of it.
