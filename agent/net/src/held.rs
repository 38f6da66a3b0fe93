//! Tells the links which entities changed, while anything is held.

use crate::hub::{Hub, LOOK};
use mew_store::Place;
use mew_sync::records::HELD;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};

/// Ends with the hub.
pub(crate) fn watch(hub: &Arc<Hub>) {
    let (tx, rx) = channel::<()>();
    let pending = Arc::new(AtomicBool::new(false));
    let signal = pending.clone();
    hub.kernel.on_commit(move |_| {
        if !signal.swap(true, Ordering::AcqRel) {
            let _ = tx.send(());
        }
    });
    let weak = Arc::downgrade(hub);
    let mut place = Place::after(hub.kernel.head());
    let watch = move || {
        loop {
            let rung = rx.recv_timeout(LOOK);
            let Some(hub) = weak.upgrade() else { return };
            match rung {
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
                Ok(()) => pending.store(false, Ordering::Release),
            }
            // Before the count: what is held after it may be blocked by what is committed after it, too.
            let head = hub.kernel.head();
            if hub.kernel.view().count_facts(HELD).is_ok_and(|n| n == 0) {
                place = Place::after(head);
                continue;
            }
            let (mut ids, mut chunk) = (Vec::new(), Vec::new());
            while let Ok(true) = hub.kernel.feed(&mut place, &mut chunk) {
                ids.extend(chunk.drain(..).filter_map(|s| s.entity().ok().map(|e| e.sync_id.to_owned())));
            }
            hub.changed(ids);
        }
    };
    if let Err(e) = std::thread::Builder::new().name("held".into()).spawn(watch) {
        tracing::error!(error = %e, "the thread that retries held entities cannot be started");
    }
}
