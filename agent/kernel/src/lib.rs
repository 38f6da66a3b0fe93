//! The embedded kernel: checked plans in, rows and durable commits out.
//!
//! Statements and incoming changes run one after another in transactions over the newest commit ([`Tx`]); those that
//! wait together share one commit and one sync of the disk ([`Kernel::write`]).

mod error;
mod kernel;
mod matching;
mod mutate;
mod rows;
mod tx;

pub use error::KernelError;
pub use kernel::{Identity, Kernel, Params};
pub use mutate::{bury, kill_set};
pub use rows::{Output, Summary};
pub use tx::Tx;
