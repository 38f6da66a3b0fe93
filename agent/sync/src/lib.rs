//! The flow engine: `Link::handle(event, now) → effects`.
//!
//! One [`Link`] per Remote holds the connection's schedule, the handshake and all flows with that peer, in both
//! directions. It opens no socket, reads no clock and draws no randomness: connections and frames come in as events, time
//! and random numbers as arguments, and what is to be done goes out as [`Effect`]s. The only thing it touches is the
//! kernel, through its transactions, and it acknowledges nothing before that commit returned.

mod apply;
mod backoff;
mod definition;
pub mod held;
mod link;
mod members;
pub mod records;
mod rules;
pub mod shapes;
mod sink;
mod source;

pub use backoff::wait_ms;
pub use link::{ConnId, Connected, Effect, Event, Link, Local, Now, Outstanding};
pub use members::{OpenTime, SAVE_EVERY, floor};
pub use rules::Rules;

/// Versions of the protocol that this program speaks.
pub const PROTOCOL_MIN: u32 = 1;
pub const PROTOCOL_MAX: u32 = 1;
