//! Tries held entities again when what blocked them changes.

use crate::apply::{HeldRoom, Incoming, Outcome, apply};
use crate::records;
use mew_kernel::{Kernel, KernelError, Tx};
use mew_wire as wire;

/// Retries of one commit, so that a popular blocker does not stop everybody else's writes.
const MAX_RETRIES: usize = 1000;

/// Held entities of `from`'s flow whose blocker is among `changed`; all of them if `changed` is `None`. Returns how many
/// could be applied. Goes on while applying one unblocks others.
pub fn retry(kernel: &Kernel, now_ms: u64, from: &Incoming, changed: Option<Vec<String>>) -> Result<u64, KernelError> {
    let mut applied = 0;
    let mut next = changed;
    loop {
        let todo = {
            let view = kernel.view();
            let mut todo = Vec::new();
            match &next {
                None => {
                    for k in view.fact_keys(&records::held_prefix(&from.flow))? {
                        todo.extend(records::parse_held_key(&k).map(|(_, id)| id));
                    }
                }
                Some(changed) => {
                    for c in changed {
                        for k in view.fact_keys(&records::blocked_prefix(c))? {
                            todo.extend(
                                records::parse_blocked_key(&k).filter(|(f, _)| *f == from.flow).map(|(_, id)| id),
                            );
                        }
                    }
                }
            }
            todo
        };
        if todo.is_empty() {
            return Ok(applied);
        }
        let mut freed = Vec::new();
        for piece in todo.chunks(MAX_RETRIES) {
            let (piece, from) = (piece.to_vec(), from.clone());
            let (done, _) = kernel.write(now_ms, move |tx| retry_some(tx, &from, &piece))?;
            freed.extend(done);
        }
        applied += freed.len() as u64;
        if freed.is_empty() {
            return Ok(applied);
        }
        next = Some(freed);
    }
}

fn retry_some(tx: &mut Tx<'_>, from: &Incoming, ids: &[String]) -> Result<Vec<String>, KernelError> {
    let (mut done, mut room) = (Vec::new(), HeldRoom::default());
    for id in ids {
        let Some(h) = records::read::<wire::Held>(tx.fact(&records::held_key(&from.flow, id))?) else { continue };
        if matches!(apply(tx, from, &h.entity, &mut room)?, Outcome::Applied) {
            done.push(id.clone());
        }
    }
    Ok(done)
}
