//! System records, kept as facts of the store: positions, held entities, conflicts. Their keys and bounds.

use bytes::Bytes;
use mew_kernel::{KernelError, Tx};
use mew_wire as wire;
use prost::Message;

/// Conflicts beyond this are forgotten, oldest first.
pub const MAX_CONFLICTS: usize = 10_000;
/// Entities that one flow may hold; more stop the flow, because what is not kept would be lost.
pub const MAX_HELD: usize = 100_000;

pub const HELD: &[u8] = b"held/";
pub const CONFLICT: &[u8] = b"conflict/";

fn key(parts: &[&str]) -> Vec<u8> {
    parts.join("\0").into_bytes()
}

/// A flow in the sink's store: source kernel, declaring kernel, name of the Sync, direction.
pub fn flow_key(source: &str, declarer: &str, name: &str) -> String {
    format!("{source}|{declarer}|{name}")
}

pub fn sink_key(flow: &str) -> Vec<u8> {
    key(&["sink/", flow])
}

pub fn definition_key(sink: &str, flow: &str, revision: &str) -> Vec<u8> {
    key(&["source/", sink, flow, revision])
}

pub fn held_prefix(flow: &str) -> Vec<u8> {
    key(&["held/", flow, ""])
}

pub fn held_key(flow: &str, sync_id: &str) -> Vec<u8> {
    key(&["held/", flow, sync_id])
}

/// Index from what blocks to what is held.
pub fn blocked_key(blocker: &str, flow: &str, sync_id: &str) -> Vec<u8> {
    key(&["blocked/", blocker, flow, sync_id])
}

pub fn blocked_prefix(blocker: &str) -> Vec<u8> {
    key(&["blocked/", blocker, ""])
}

/// Flow and `sync_id` of a key made by [`held_key`].
pub fn parse_held_key(k: &[u8]) -> Option<(String, String)> {
    let mut parts = std::str::from_utf8(k).ok()?.split('\0').skip(1);
    Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
}

/// Flow and `sync_id` of a key made by [`blocked_key`].
pub fn parse_blocked_key(k: &[u8]) -> Option<(String, String)> {
    let mut parts = std::str::from_utf8(k).ok()?.split('\0').skip(2);
    Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
}

pub fn read<T: Message + Default>(b: Option<Bytes>) -> Option<T> {
    b.and_then(|b| T::decode(b).ok())
}

/// Logs a conflict with both versions, and forgets the oldest beyond the bound.
pub fn log_conflict(tx: &mut Tx<'_>, c: &wire::Conflict) -> Result<(), KernelError> {
    // Several conflicts of one entity may fall into one millisecond.
    let n = tx.count_facts(CONFLICT);
    let k = format!("conflict/{:020}-{n:08}-{}", c.at_ms, c.sync_id);
    tx.set_fact(k.into_bytes(), c.encode_to_vec());
    for old in tx.oldest_facts_beyond(CONFLICT, MAX_CONFLICTS) {
        tx.delete_fact(old);
    }
    Ok(())
}
