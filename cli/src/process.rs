//! Signals, and children that do not outlive their parent.

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or SIGINT.
pub async fn terminated() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Asks the system to end this process with its parent, however that ends.
pub fn die_with(parent: Option<u32>) -> Result<()> {
    let Some(parent) = parent else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // It may have gone before the request was made.
    if getppid().map(Pid::as_raw_nonzero).map(|p| p.get() as u32) != Some(parent) {
        bail!("the parent process {parent} is gone");
    }
    Ok(())
}
