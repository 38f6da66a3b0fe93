//! Gates, Ready and what kstatus makes of them: the design's status table row by row, fed with reports. And that a
//! status is written when something happened, not when time passes.

mod changes;
#[path = "../common/mod.rs"]
mod common;
mod doubts;
mod leaders;
mod order;
mod references;
mod rows;
mod stalled;
mod table;
