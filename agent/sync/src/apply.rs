//! What an incoming version does to what is here: causality, conflicts, whose entity it is, and what is held.

use crate::records::{self, MAX_HELD};
use crate::rules::Rules;
use bytes::Bytes;
use mew_contract::problem::shortened;
use mew_contract::snapshot::Overwrite;
use mew_kernel::{KernelError, Tx};
use mew_lang::plan::KillMode;
use mew_model::entity::{MAX_ENTITY, MAX_WRITERS};
use mew_model::{Causality, Draft, EntityRef, Hlc, KernelKey, name};
use mew_store::Stored;
use mew_wire as wire;
use prost::Message;

/// The flow that a version arrives by.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub flow: String,
    pub remote: String,
    pub peer_kernel_id: String,
    pub peer: KernelKey,
    pub rules: std::sync::Arc<Rules>,
    pub delete: bool,
    pub delete_on_unmatch: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Applied,
    /// Nothing new in it.
    Known,
    /// Waits for what blocks it.
    Held,
    /// Refused for good.
    Rejected(Refusal),
}

/// Why a version was refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For this side's people.
    pub why: String,
    /// For the peer: nothing of what it may do here, and nothing of what is here but what it says itself.
    pub told: String,
}

impl Refusal {
    /// What is wrong with what the peer says itself.
    fn open(why: String) -> Self {
        Refusal { told: why.clone(), why }
    }
}

/// Why a version cannot be applied now.
struct Block {
    reason: &'static str,
    message: String,
    /// `sync_id` of what must change first.
    blocker: String,
}

/// What a transaction knows of the held entities of a flow.
#[derive(Default)]
pub struct HeldRoom {
    /// Whether there may be any: mostly there are none, and no version has to be looked up among them.
    any: Option<bool>,
    /// How many more there may be. They are counted once, when one is to be held: a batch may hold a thousand beside a hundred
    /// thousand.
    left: Option<usize>,
}

impl HeldRoom {
    fn may_have(&mut self, tx: &Tx<'_>, from: &Incoming) -> Result<bool, KernelError> {
        let any = match self.any {
            Some(any) => any,
            None => tx.may_have_facts(&records::held_prefix(&from.flow))?,
        };
        self.any = Some(any);
        Ok(any)
    }

    fn take(&mut self, tx: &Tx<'_>, from: &Incoming) -> Result<bool, KernelError> {
        let left = match self.left {
            Some(n) => n,
            None => MAX_HELD.saturating_sub(tx.count_facts(&records::held_prefix(&from.flow))?),
        };
        self.left = Some(left.saturating_sub(1));
        self.any = Some(true);
        Ok(left > 0)
    }

    fn give_back(&mut self) {
        self.left = self.left.map(|n| n + 1);
    }
}

/// Applies one version; whatever becomes of it, the flow goes on. An error is the store's or the kernel's, not the
/// version's.
pub fn apply(tx: &mut Tx<'_>, from: &Incoming, bytes: &Bytes, room: &mut HeldRoom) -> Result<Outcome, KernelError> {
    let e = match EntityRef::validate(bytes) {
        Ok(e) => e,
        Err(why) => return Ok(Outcome::Rejected(Refusal::open(format!("malformed entity: {why}")))),
    };
    if !from.rules.import.contains(&e.ty) {
        return Ok(Outcome::Rejected(Refusal {
            why: format!("type {} may not come from this peer", tx.ontology().type_name(e.ty)),
            told: format!("the sink denies {:?}", e.sync_id),
        }));
    }
    if let Some(k) = name::kernel_of_sync_id(e.sync_id)
        && k != from.peer_kernel_id
        && k != tx.identity().kernel_id
    {
        let why = format!("{:?} names the kernel {k}, and forwarding is not allowed", e.sync_id);
        return Ok(Outcome::Rejected(Refusal::open(why)));
    }
    let r = decide(tx, from, bytes, &e)?;
    settle(tx, from, &e, bytes, r, room)
}

/// Records or clears what is held under the `sync_id`.
fn settle(
    tx: &mut Tx<'_>,
    from: &Incoming,
    e: &EntityRef<'_>,
    bytes: &Bytes,
    r: Result<Outcome, Block>,
    room: &mut HeldRoom,
) -> Result<Outcome, KernelError> {
    let r = match r {
        Ok(o) if !room.may_have(tx, from)? => return Ok(o),
        r => r,
    };
    let k = records::held_key(&from.flow, e.sync_id);
    if let Some(old) = records::read::<wire::Held>(tx.fact(&k)?) {
        tx.delete_fact(records::blocked_key(&old.blocker, &from.flow, e.sync_id));
        tx.delete_fact(k.clone());
        room.give_back();
    }
    let b = match r {
        Ok(o) => return Ok(o),
        Err(b) => b,
    };
    if !room.take(tx, from)? {
        return Err(KernelError::Limit(format!(
            "{MAX_HELD} entities of this flow are held already; resolve some (mew held) first"
        )));
    }
    let held = wire::Held {
        reason: b.reason.to_owned(),
        // It may name a value, and one record must hold it beside the entity.
        message: shortened(b.message),
        blocker: b.blocker.clone(),
        since_ms: tx.now_ms,
        entity: bytes.clone(),
    };
    tx.set_fact(k, held.encode_to_vec());
    tx.set_fact(records::blocked_key(&b.blocker, &from.flow, e.sync_id), vec![1]);
    Ok(Outcome::Held)
}

type Decision = Result<Result<Outcome, Block>, KernelError>;

fn decide(tx: &mut Tx<'_>, from: &Incoming, bytes: &Bytes, e: &EntityRef<'_>) -> Decision {
    let Some(local) = tx.found(e.sync_id)? else {
        // Deleting what is not here is done already.
        return if e.deleted { Ok(Ok(Outcome::Known)) } else { store(tx, from, bytes, e, None) };
    };
    let mine = local.entity()?;
    if mine.ty != e.ty {
        return blocked(
            "TypeClash",
            format!("{:?} is a {} here", e.sync_id, tx.ontology().type_name(mine.ty)),
            e.sync_id,
        );
    }
    let (theirs_v, mine_v) = (e.vector(), mine.vector());
    let causality = theirs_v.compare(&mine_v);
    // Buried here together with something that left or died; the source still has it, or has it again.
    if causality == Causality::Equal && mine.deleted && !e.deleted && local.origin == from.peer {
        return store(tx, from, bytes, e, Some(&local));
    }
    if matches!(causality, Causality::Equal | Causality::Before) {
        return Ok(Ok(Outcome::Known));
    }
    if e.deleted && mine.deleted {
        // Both say the same; only the knowledge of each other's version is new.
        return merge_only(tx, &local, &theirs_v);
    }
    if e.deleted && !from.delete {
        return Ok(Ok(Outcome::Known));
    }
    let introduced = local.origin == from.peer;
    let (overwrite, delete) = from.rules.grant(e.ty);
    if e.deleted && !(delete == Some(true) || (delete.is_none() && introduced)) {
        return blocked("RefusedDelete", "the peer may not delete this entity here (canSend.delete)".into(), e.sync_id);
    }
    if !introduced && !e.deleted && overwrite == Overwrite::Never {
        return blocked(
            "NotOwner",
            "the peer did not introduce this entity and may not change it (canSend.overwriteLocal)".into(),
            e.sync_id,
        );
    }
    if causality == Causality::After {
        return store(tx, from, bytes, e, Some(&local));
    }
    if e.same_content(&mine) {
        return merge_only(tx, &local, &theirs_v);
    }
    conflict(tx, from, bytes, e, &local, !introduced && overwrite == Overwrite::Always)
}

/// Concurrent versions that differ: the later in (time, kernel) order wins, or the grant decides; both are logged.
fn conflict(
    tx: &mut Tx<'_>,
    from: &Incoming,
    bytes: &Bytes,
    e: &EntityRef<'_>,
    local: &Stored,
    granted: bool,
) -> Decision {
    let mine = local.entity()?;
    let incoming_wins = granted || e.version() > mine.version();
    let log = wire::Conflict {
        sync_id: e.sync_id.to_owned(),
        remote: from.remote.clone(),
        r#type: tx.ontology().type_name(e.ty),
        local: local.bytes.clone(),
        incoming: bytes.clone(),
        resolution: if incoming_wins { records::REMOTE_APPLIED } else { records::LOCAL_KEPT }.to_owned(),
        at_ms: tx.now_ms,
        by: if granted { "auto:grant" } else { "auto:lww" }.to_owned(),
        flow: from.flow.clone(),
    };
    let r = if incoming_wins {
        let mut d = e.to_draft();
        d.learn(&mine.vector());
        if granted && e.version() < mine.version() {
            // It wins against the later version, so it becomes a write of this kernel that follows both: otherwise a
            // vector would dominate an earlier time's.
            d.stamp(tx.identity().key, tx.now_ms, Some(mine.time.max(e.time)));
        }
        let merged = encoded(d);
        let m = EntityRef::read(&merged).map_err(|e| KernelError::Limit(e.to_string()))?;
        store(tx, from, &merged, &m, Some(local))?
    } else {
        merge_only(tx, local, &e.vector())?
    };
    if r.is_ok() {
        records::log_conflict(tx, &log)?;
    }
    Ok(r)
}

/// Keeps the content that is here and remembers that the other version is known.
fn merge_only(tx: &mut Tx<'_>, local: &Stored, theirs: &mew_model::Vector) -> Decision {
    let mut d = local.entity()?.to_draft();
    d.learn(theirs);
    // The version must be the latest in its own vector.
    if let Some((k, t)) = theirs.iter().max_by_key(|(k, t)| (*t, *k))
        && (t, k) > (d.time, d.kernel)
    {
        (d.time, d.kernel) = (t, k);
    }
    tx.put(encoded(d), local.origin, Some(local))?;
    Ok(Ok(Outcome::Applied))
}

/// The bytes of a version that has learned of another one. If that makes an entity too large which is nearly as large as it
/// may be, the oldest knowledge goes: then versions may seem concurrent that are not, and the flow goes on.
fn encoded(mut d: Draft) -> Bytes {
    let (mut bytes, mut writers) = (d.encode(), MAX_WRITERS);
    while bytes.len() > MAX_ENTITY && writers > 1 {
        writers /= 2;
        d.vector.keep_newest(writers);
        bytes = d.encode();
    }
    bytes.into()
}

fn store(tx: &mut Tx<'_>, from: &Incoming, bytes: &Bytes, e: &EntityRef<'_>, local: Option<&Stored>) -> Decision {
    if e.deleted {
        let Some(local) = local else { return Ok(Ok(Outcome::Known)) };
        if let Err(b) = take_dependents(tx, from, local)? {
            return Ok(Err(b));
        }
    } else {
        for end in e.ends() {
            if tx.living_as(end)?.is_none() {
                return blocked("MissingEnd", format!("end {end:?} of the edge is not here"), end);
            }
        }
        match tx.check(local, e) {
            Ok(()) => {}
            Err(KernelError::Violation(v)) => return blocked("ConstraintViolation", v.to_string(), &clashing(tx, e)?),
            Err(e) => return Err(e),
        }
    }
    tx.put(bytes.clone(), local.map_or(from.peer, |l| l.origin), local)?;
    Ok(Ok(Outcome::Applied))
}

/// The entity whose unique value is in the way, if that is what is wrong.
fn clashing(tx: &Tx<'_>, e: &EntityRef<'_>) -> Result<String, KernelError> {
    let o = tx.ontology().clone();
    for a in o.by_number(e.ty).into_iter().flat_map(|t| t.attrs.values()) {
        let v = e.attr_ref(a.number);
        if let Some(scope) = a.unique_in
            && !v.is_null()
            && let Some(s) = tx.unique(scope, a.number, v)?
        {
            return Ok(s.entity()?.sync_id.to_owned());
        }
    }
    Ok(String::new())
}

/// Buries what the peer introduced and wrote last in the peer's name, so that the peer's next version of it follows from
/// the tombstone and brings it back; anything else by a local write.
fn take(tx: &mut Tx<'_>, from: &Incoming, s: &Stored, at: Option<Hlc>) -> Result<(), KernelError> {
    let e = s.entity()?;
    if s.origin != from.peer || e.kernel != from.peer {
        return mew_kernel::bury(tx, s);
    }
    let mut d = e.to_draft();
    d.delete();
    if let Some(t) = at.filter(|t| *t > d.time) {
        d.time = t;
        d.vector.raise(from.peer, t);
    }
    tx.put(Bytes::from(d.encode()), s.origin, Some(s)).map(|_| ())
}

/// Before a node goes: its edges, and what the edge types say goes with it.
fn take_dependents(tx: &mut Tx<'_>, from: &Incoming, local: &Stored) -> Result<Result<(), Block>, KernelError> {
    let (nodes, edges) = match mew_kernel::kill_set(tx, local.ent, KillMode::Declared) {
        Ok(s) => s,
        Err(KernelError::Violation(v)) => {
            // Whatever prevents it is one of its edges; the first will do, as each change to one retries.
            let edge = tx.edges_of(local.ent)?.first().copied();
            let blocker = match edge.map(|e| tx.get(e)).transpose()?.flatten() {
                Some(s) => s.entity()?.sync_id.to_owned(),
                None => String::new(),
            };
            return Ok(Err(Block { reason: "RefusedDelete", message: v.to_string(), blocker }));
        }
        Err(e) => return Err(e),
    };
    for ent in edges.into_iter().chain(nodes).filter(|e| *e != local.ent) {
        if let Some(s) = tx.living(ent)? {
            take(tx, from, &s, None)?;
        }
    }
    Ok(Ok(()))
}

fn blocked(reason: &'static str, message: String, blocker: &str) -> Decision {
    Ok(Err(Block { reason, message, blocker: blocker.to_owned() }))
}

/// The entity left the pattern at the source and still exists there.
pub fn leave(tx: &mut Tx<'_>, from: &Incoming, l: &wire::Leave) -> Result<Outcome, KernelError> {
    let k = records::held_key(&from.flow, &l.sync_id);
    if let Some(old) = records::read::<wire::Held>(tx.fact(&k)?) {
        tx.delete_fact(records::blocked_key(&old.blocker, &from.flow, &l.sync_id));
        tx.delete_fact(k);
    }
    if !from.delete_on_unmatch {
        return Ok(Outcome::Known);
    }
    let Some(local) = tx.living_as(&l.sync_id)? else { return Ok(Outcome::Known) };
    let stays = |why: String| {
        let told = format!("{:?} left the pattern and is not deleted at the sink", l.sync_id);
        Outcome::Rejected(Refusal { why, told })
    };
    let ty = local.entity()?.ty;
    let (_, delete) = from.rules.grant(ty);
    let introduced = local.origin == from.peer;
    // A refusal would say that it is here, which is told of nothing that the peer may not send.
    if !introduced && !from.rules.import.contains(&ty) {
        return Ok(Outcome::Known);
    }
    if !(delete == Some(true) || (delete.is_none() && introduced)) {
        return Ok(stays(format!("{:?} left the pattern and the peer may not delete it here", l.sync_id)));
    }
    match take_dependents(tx, from, &local)? {
        Ok(()) => take(tx, from, &local, (l.kernel == from.peer.0).then_some(Hlc(l.time))).map(|()| Outcome::Applied),
        Err(b) => Ok(stays(b.message)),
    }
}
