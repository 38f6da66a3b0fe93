//! Child processes that end by themselves.

use anyhow::Result;
use std::process::Command;
use std::time::Duration;

pub use mew_tests::output::{both, output_within};

/// For a call of mew and the like: seconds, on a busy machine minutes.
pub const CALL: Duration = Duration::from_secs(240);

/// What it prints; an error with what it complains of if it fails.
pub fn output(c: Command, stdin: &str) -> Result<String> {
    output_within(c, stdin, CALL)
}

/// A program in PATH.
pub fn in_path(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.is_file())
}
