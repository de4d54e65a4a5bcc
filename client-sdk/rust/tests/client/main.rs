//! The client against a fake broker, over a stream in memory and a clock that stands still: nothing waits for real.
//!
//! One file for each hazard; `fake_broker` opens with how to script another.

mod books;
mod close;
mod credit;
mod fake_broker;
mod history;
mod publish;
mod reconnect;
mod resume;
