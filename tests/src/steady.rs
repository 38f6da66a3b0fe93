//! Watches objects of standalone operators all the time: none of them may say for a moment that it is not ready.

use crate::kstatus::condition;
use crate::standalone::Side;
use anyhow::{Result, anyhow, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// An agent reports a change at most every 250 ms, so nothing that is said is missed.
const LOOK: Duration = Duration::from_millis(25);

pub struct Steady {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
}

#[derive(Default)]
struct Seen {
    looks: u64,
    /// What was said in place of "ready".
    flaps: Vec<String>,
}

impl Steady {
    /// All Remotes and Syncs of these sides.
    pub fn watch(sides: &[&Side]) -> Self {
        let files: Vec<PathBuf> = sides.iter().map(|s| s.objects()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = stop.clone();
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            while !theirs.load(Ordering::SeqCst) {
                files.iter().for_each(|f| look(f, &mut seen));
                thread::sleep(LOOK);
            }
            seen
        });
        Steady { stop, thread: Some(thread) }
    }

    /// Fails with everything that was said in place of "ready".
    pub fn verdict(mut self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().ok_or_else(|| anyhow!("it was asked before"))?;
        let seen = thread.join().map_err(|_| anyhow!("the watching thread panicked"))?;
        ensure!(seen.looks > 0, "nothing was looked at");
        ensure!(seen.flaps.is_empty(), "not ready for a moment:\n{}", seen.flaps.join("\n"));
        Ok(())
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn look(file: &Path, seen: &mut Seen) {
    // It is replaced as a whole, so what can be read is what was said.
    let Some(all) = std::fs::read(file).ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok()) else { return };
    for kinds in ["remotes", "syncs"] {
        for (name, o) in all[kinds].as_object().into_iter().flatten() {
            seen.looks += 1;
            let Some(c) = condition(o, "Ready").filter(|c| c["status"] != "True") else { continue };
            let flap = format!("{name}: {c}");
            if seen.flaps.last() != Some(&flap) {
                seen.flaps.push(flap);
            }
        }
    }
}
