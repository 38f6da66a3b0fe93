//! What is being done, and how long it took.

use anyhow::{Context, Result};
use mew_tests::process::progress;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
/// Shorter steps only need to be named.
const WORTH_SAYING: Duration = Duration::from_secs(1);

pub fn say(text: &str) {
    progress(&format!("[{:>5} s] {text}", START.elapsed().as_secs()));
}

/// Says what is done before it is, so that one that hangs is seen; an error carries it.
pub fn step<T>(what: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    say(&format!("{what} …"));
    let r = f().with_context(|| what.to_owned());
    if r.is_ok() && began.elapsed() >= WORTH_SAYING {
        say(&format!("{what}: {:.1} s", began.elapsed().as_secs_f32()));
    }
    r
}
