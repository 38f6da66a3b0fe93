//! System records, kept as facts of the store: positions, held entities, conflicts. Their keys and bounds.

use bytes::Bytes;
use mew_kernel::{KernelError, Tx};
use mew_store::{StoreError, View, is_fact};
use mew_wire as wire;
use prost::Message;

/// Conflicts beyond this are forgotten, oldest first.
pub const MAX_CONFLICTS: usize = 10_000;
/// Entities that one flow may hold; more stop the flow, because what is not kept would be lost.
pub const MAX_HELD: usize = 100_000;

pub const HELD: &[u8] = b"held/";
pub const CONFLICT: &[u8] = b"conflict/";
/// Resolutions of a conflict.
pub const LOCAL_KEPT: &str = "local_kept";
pub const REMOTE_APPLIED: &str = "remote_applied";
/// How many conflicts there ever were; unlike the conflicts themselves, this is never forgotten.
const TOTALS: &[u8] = b"conflicts/";

fn key(parts: &[&str]) -> Vec<u8> {
    parts.join("\0").into_bytes()
}

/// A flow in the sink's store: source kernel, declaring kernel, name of the Sync, direction.
pub fn flow_key(source: &str, declarer: &str, name: &str) -> String {
    format!("{source}|{declarer}|{name}")
}

/// Source kernel and name of the Sync of a key made by [`flow_key`].
pub fn parse_flow_key(k: &str) -> Option<(&str, &str)> {
    let mut parts = k.splitn(3, '|');
    Some((parts.next()?, parts.nth(1)?))
}

pub fn sink_key(flow: &str) -> Vec<u8> {
    key(&["sink/", flow])
}

pub fn definition_key(sink: &str, flow: &str, revision: &str) -> Vec<u8> {
    key(&["source/", sink, flow, revision])
}

/// Which entities sinks have; see `members.rs`.
pub const MEMBERS: &[u8] = b"members/";
/// How long this kernel has been open to its peers; see `members/floor.rs`.
pub const OPEN: &[u8] = b"open/";

pub fn members_prefix(sink: &str, flow: &str) -> Vec<u8> {
    key(&["members/", sink, flow, ""])
}

/// Of all flows that the sink itself declares; their names follow.
pub fn pulled_prefix(sink: &str, source: &str) -> Vec<u8> {
    key(&["members/", sink, &flow_key(source, sink, "")])
}

pub fn members_key(sink: &str, flow: &str, part: &str) -> Vec<u8> {
    key(&["members/", sink, flow, part])
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
    parts_after(1, k)
}

/// Flow and `sync_id` of a key made by [`blocked_key`].
pub fn parse_blocked_key(k: &[u8]) -> Option<(String, String)> {
    parts_after(2, k)
}

fn parts_after(skip: usize, k: &[u8]) -> Option<(String, String)> {
    let mut parts = std::str::from_utf8(k).ok()?.split('\0').skip(skip);
    Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
}

pub fn read<T: Message + Default>(b: Option<Bytes>) -> Option<T> {
    b.and_then(|b| T::decode(b).ok())
}

/// Logs a conflict with both versions, counts it, and forgets the oldest beyond the bound.
pub fn log_conflict(tx: &mut Tx<'_>, c: &wire::Conflict) -> Result<(), KernelError> {
    let total = key(&["conflicts/", &c.remote, &c.resolution]);
    let so_far = tx.fact(&total)?.map_or(0, |b| number(&b));
    tx.set_fact(total, so_far.saturating_add(1).to_le_bytes().to_vec());
    // Several conflicts of one entity may fall into one millisecond.
    let k = format!("conflict/{:020}-{so_far:08}-{}-{}-{}", c.at_ms, c.remote, c.resolution, c.sync_id).into_bytes();
    let mut value = c.encode_to_vec();
    if !is_fact(&k, &value) {
        // Two large versions are more than one record holds. The one that stays is in the store anyway.
        let mut c = c.clone();
        *(if c.resolution == LOCAL_KEPT { &mut c.local } else { &mut c.incoming }) = Bytes::new();
        value = c.encode_to_vec();
    }
    tx.set_fact(k, value);
    for old in tx.oldest_facts_beyond(CONFLICT, MAX_CONFLICTS)? {
        tx.delete_fact(old);
    }
    Ok(())
}

/// How many conflicts there ever were with a Remote.
pub fn conflicts_with(tx: &Tx<'_>, remote: &str) -> Result<u64, KernelError> {
    Ok(tx.facts(&key(&["conflicts/", remote, ""]))?.iter().fold(0, |sum: u64, (_, b)| sum.saturating_add(number(b))))
}

/// Remote, resolution, and how many conflicts there ever were.
pub fn conflict_totals(view: &View<'_>) -> Result<Vec<(String, String, u64)>, StoreError> {
    let all = view.facts(TOTALS)?;
    let total = |(k, b): &(Vec<u8>, Bytes)| parts_after(1, k).map(|(remote, how)| (remote, how, number(b)));
    Ok(all.iter().filter_map(total).collect())
}

/// What is saved under [`OPEN`], in ms.
pub fn open_ms(saved: Option<Bytes>) -> u64 {
    saved.map_or(0, |b| number(&b))
}

fn number(b: &[u8]) -> u64 {
    b.try_into().map_or(0, u64::from_le_bytes)
}
