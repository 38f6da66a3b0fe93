//! Ctrl-C ends the run in order: what was begun is cleaned up.

use crate::steps::say;
use anyhow::{Result, ensure};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

static STOPPED: AtomicBool = AtomicBool::new(false);

pub fn listen() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || runtime.block_on(wait()));
    Ok(())
}

async fn wait() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return;
    };
    loop {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        STOPPED.store(true, Ordering::SeqCst);
        say("interrupted; cleaning up");
    }
}

/// Fails once the run shall end.
pub fn check() -> Result<()> {
    ensure!(!STOPPED.load(Ordering::SeqCst), "interrupted");
    Ok(())
}
