//! The embedded kernel: checked plans in, rows and durable commits out.
//!
//! Statements and incoming changes run one after another in transactions over the newest commit ([`Tx`]); those that
//! wait together share one commit and one sync of the disk ([`Kernel::write`]).

mod error;
mod identity;
mod kernel;
mod matching;
mod mutate;
mod names;
mod query;
mod rows;
mod script;
mod sorted;
mod system;
mod table;
mod tx;

pub use error::KernelError;
pub use identity::Identity;
pub use kernel::{Kernel, Unfit};
pub use mutate::{bury, kill_set};
pub use names::Params;
pub use rows::{Output, Summary};
pub use script::Script;
pub use system::{Records, Take};
pub use table::Table;
pub use tx::Tx;
