//! Changes that cannot arrive for a while. Meanwhile nobody may call that ready, and afterwards they arrive.

use crate::pair::Written;
use crate::side::Side;
use crate::wait::{PATIENCE, until};
use crate::watch::Watch;
use anyhow::{Result, ensure};
use mew_tests::watcher::Probe;

/// Waits until a change is so old that no status of its Sync may be ready any more; the caller knows that it is missing.
pub fn overdue(watch: &Watch, w: &Written) -> Result<Probe> {
    until("a change is older than its maxLag", PATIENCE, || {
        let p = w.is_missing(watch);
        Ok(is_overdue(watch, &p).then_some(p))
    })
}

/// As long, and then looks: it has not arrived, and no status called that ready.
pub fn stays_away(watch: &Watch, w: &Written, sink: &Side) -> Result<()> {
    let p = overdue(watch, w)?;
    ensure!(!w.is_at(sink)?, "{}: what was written at the other side has arrived", sink.cluster.name);
    watch.verdict(&[p])
}

fn is_overdue(watch: &Watch, p: &Probe) -> bool {
    let events = watch.events();
    let last = events.iter().rev().find(|e| e.sync == p.sync);
    last.is_some_and(|e| p.until_ms > p.written_ms + e.max_lag_ms + p.grace_ms)
}

/// Waits until it is there. When it came nobody knows exactly, so what is judged is the time until the last look that
/// did not find it.
pub fn arrives(watch: &Watch, w: &Written, sink: &Side) -> Result<()> {
    let mut missing = None;
    until(&format!("{}: what was written meanwhile is there", sink.cluster.name), PATIENCE, || {
        let p = w.is_missing(watch);
        if w.is_at(sink)? {
            return Ok(Some(()));
        }
        missing = Some(p);
        Ok(None)
    })?;
    missing.map_or(Ok(()), |p| watch.verdict(&[p]))
}
