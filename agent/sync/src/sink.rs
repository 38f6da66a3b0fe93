//! The receiving end of a flow: one commit per batch, with its position and counts, before it is acknowledged.

use crate::apply::{HeldRoom, Incoming, Outcome, Refusal, apply, leave};
use crate::records;
use mew_contract::{Problem, Reason};
use mew_kernel::{Kernel, KernelError, Tx};
use mew_model::EntityRef;
use mew_wire as wire;
use prost::Message;

/// Entities and leaves of one batch, ten times what a source sends: each is work in one transaction.
const MAX_BATCH: usize = 10_000;
/// Bytes of a revision, four times what a source sends: it is kept with the position.
const MAX_REVISION: usize = 64;

/// Where the sink stands, as its store says.
pub fn state(kernel: &Kernel, flow: &str) -> Option<wire::SinkState> {
    let b = kernel.view().fact(&records::sink_key(flow)).ok().flatten();
    records::read(b)
}

pub fn held(kernel: &Kernel, flow: &str) -> u64 {
    kernel.view().count_facts(&records::held_prefix(flow)).unwrap_or_default() as u64
}

/// Checks the position against the source's incarnation. A wanted reset, different from the last that was followed,
/// begins anew; otherwise another incarnation is refused.
pub fn position(
    state: Option<&wire::SinkState>,
    incarnation: &str,
    reset: &str,
) -> Result<Option<wire::Position>, Problem> {
    let Some(s) = state else { return Ok(None) };
    let Some(p) = s.position.clone() else { return Ok(None) };
    if !reset.is_empty() && s.reset != reset {
        return Ok(None);
    }
    if p.incarnation != incarnation {
        return Err(Problem::new(
            Reason::SourceReset,
            "the source's data directory is not the one that this position belongs to; check what was lost there, then request a reset to copy anew",
        ));
    }
    Ok(Some(p))
}

/// What the sink's store says it has done so far.
pub fn counts(kernel: &Kernel, flow: &str) -> (u64, wire::Counts) {
    let s = state(kernel, flow).unwrap_or_default();
    let seq = s.position.map_or(0, |p| p.seq);
    (seq, wire::Counts { held: held(kernel, flow), ..s.counts.unwrap_or_default() })
}

pub struct Applied {
    pub counts: wire::Counts,
    /// The last refusal in the batch.
    pub rejected: Option<Refusal>,
}

/// Applies a batch and its position in one commit.
pub fn apply_push(
    kernel: &Kernel,
    now_ms: u64,
    from: Incoming,
    incarnation: &str,
    reset: &str,
    push: wire::SyncPush,
) -> Result<Applied, Problem> {
    if push.crcs.len() != push.entities.len() {
        let m = format!("a batch of {} entities arrived with {} checksums", push.entities.len(), push.crcs.len());
        return Err(Problem::new(Reason::SourceError, m));
    }
    let n = push.entities.len() + push.leaves.len();
    if n > MAX_BATCH || push.revision.len() > MAX_REVISION {
        let m = format!("a batch of {n} changes under a revision of {} bytes is too large", push.revision.len());
        return Err(Problem::new(Reason::SourceError, m));
    }
    for (i, b) in push.entities.iter().enumerate() {
        if push.crcs.get(i) != Some(&crc32c::crc32c(b)) {
            return Err(Problem::new(
                Reason::SourceError,
                format!("entity {i} of a batch arrived with a wrong checksum"),
            ));
        }
        // Refused whole, so that nothing is lost: it is sent again and passes once the clocks agree.
        if let Ok(e) = EntityRef::read(b)
            && e.time.is_too_far_ahead(now_ms)
        {
            let ahead = e.time.ms().saturating_sub(now_ms) / 1000;
            return Err(Problem::new(
                Reason::ClockSkew,
                format!("the source's clock is {ahead} s ahead of the sink's; at most 60 s are accepted"),
            ));
        }
    }
    let at = state(kernel, &from.flow)
        .and_then(|s| s.position)
        .filter(|p| p.revision == push.revision && p.incarnation == incarnation);
    let here = at.map_or(push.start, |p| p.seq.max(push.start));
    if push.after > here {
        let m = format!("a batch is missing: the sink is at {here}, the batch begins after {}", push.after);
        return Err(Problem::new(Reason::SourceError, m));
    }
    let (incarnation, reset) = (incarnation.to_owned(), reset.to_owned());
    kernel
        .write(now_ms, move |tx| apply_batch(tx, &from, &incarnation, &reset, &push))
        .map(|(a, _)| a)
        .map_err(|e| Problem::new(Reason::SinkError, format!("the sink cannot store what it is sent: {e}")))
}

fn apply_batch(
    tx: &mut Tx<'_>,
    from: &Incoming,
    incarnation: &str,
    reset: &str,
    push: &wire::SyncPush,
) -> Result<Applied, KernelError> {
    let k = records::sink_key(&from.flow);
    let old: wire::SinkState = records::read(tx.fact(&k)?).unwrap_or_default();
    let mut counts = old.counts.unwrap_or_default();
    let mut rejected = None;
    let conflicts = records::conflicts_with(tx, &from.remote)?;
    let mut count = |o: Outcome, counts: &mut wire::Counts| match o {
        Outcome::Applied => counts.applied = counts.applied.saturating_add(1),
        Outcome::Known | Outcome::Held => {}
        Outcome::Rejected(why) => {
            counts.rejected = counts.rejected.saturating_add(1);
            rejected = Some(why);
        }
    };
    let mut room = HeldRoom::default();
    for b in &push.entities {
        count(apply(tx, from, b, &mut room)?, &mut counts);
    }
    for l in &push.leaves {
        count(leave(tx, from, l)?, &mut counts);
    }
    let new = records::conflicts_with(tx, &from.remote)?.saturating_sub(conflicts);
    counts.conflicts = counts.conflicts.saturating_add(new);
    // After a reset nothing of before counts: it was asked for to have everything compared again.
    let before = old.position.as_ref().filter(|_| reset.is_empty() || old.reset == reset);
    let position = advance(before, incarnation, push);
    let state = wire::SinkState {
        position: Some(position),
        counts: Some(counts),
        reset: if reset.is_empty() { old.reset } else { reset.to_owned() },
    };
    tx.set_fact(k, state.encode_to_vec());
    counts.held = tx.count_facts(&records::held_prefix(&from.flow))? as u64;
    Ok(Applied { counts, rejected })
}

/// The position after a batch. When the revision changes, what is held under the old one is remembered until the rescan
/// has passed it.
fn advance(old: Option<&wire::Position>, incarnation: &str, push: &wire::SyncPush) -> wire::Position {
    let mut p = wire::Position {
        incarnation: incarnation.to_owned(),
        seq: push.upto,
        revision: push.revision.clone(),
        start: push.start,
        complete: push.live,
        ..wire::Position::default()
    };
    if let Some(o) = old.filter(|o| o.incarnation == incarnation) {
        if o.revision != push.revision {
            (p.previous_revision, p.previous_seq) = (o.revision.clone(), o.seq.max(o.previous_seq));
        } else {
            (p.previous_revision, p.previous_seq) = (o.previous_revision.clone(), o.previous_seq);
            p.complete |= o.complete;
        }
        if p.seq >= p.previous_seq {
            (p.previous_revision, p.previous_seq) = (String::new(), 0);
        }
    }
    p
}
