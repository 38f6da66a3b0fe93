//! The planted bugs: each changes what passes between the product's parts just as a bug in the product would.

use super::invariants::Violation;
use super::scenario::Mutant;
use super::world::World;
use mew_model::{EntityRef, Hlc, KernelKey};
use mew_store::{MemDisk, Stored};
use mew_sync::ConnId;
use mew_wire as wire;
use wire::frame::Body;

/// Leaves out of a batch what is not kept; the checksums of the others stay right.
fn keep(push: &mut wire::SyncPush, wanted: impl Fn(usize, &EntityRef<'_>) -> bool) {
    let (mut entities, mut crcs) = (Vec::new(), Vec::new());
    for (i, (b, crc)) in push.entities.iter().zip(&push.crcs).enumerate() {
        if EntityRef::read(b).is_ok_and(|e| wanted(i, &e)) {
            entities.push(b.clone());
            crcs.push(*crc);
        }
    }
    push.entities = entities;
    push.crcs = crcs;
}

impl World {
    /// What arrives at `to` of a frame; `None` loses it.
    pub fn tamper(&mut self, conn: ConnId, to: usize, mut frame: wire::Frame) -> Option<wire::Frame> {
        let Some(mutant) = self.scenario.mutant else { return Some(frame) };
        match (mutant, &mut frame.body) {
            (Mutant::LostBatch, Some(Body::SyncPush(p))) if !p.entities.is_empty() && self.rng.chance(30) => {
                let entities = p.entities.len();
                self.say(|| format!("PLANTED: a batch of {entities} entities on connection {conn} is lost"));
                return None;
            }
            (Mutant::LostEntity, Some(Body::SyncPush(p))) if !p.entities.is_empty() && self.rng.chance(40) => {
                let lost = self.rng.below(p.entities.len() as u64) as usize;
                keep(p, |i, _| i != lost);
                p.entities.reverse();
                p.crcs.reverse();
                self.say(|| format!("PLANTED: entity {lost} of a batch on connection {conn} is lost"));
            }
            (Mutant::LostLeaves, Some(Body::SyncPush(p))) => p.leaves.clear(),
            (Mutant::LostTombstones, Some(Body::SyncPush(p))) => keep(p, |_, e| !e.deleted),
            (Mutant::ForgedPosition, Some(Body::FlowAccept(wire::FlowAccept { position: Some(p), .. })))
            | (Mutant::ForgedPosition, Some(Body::FlowOpen(wire::FlowOpen { position: Some(p), .. }))) => {
                // `to` is the source: only a sink tells its position.
                if let Some(kernel) = self.agents[to].kernel() {
                    p.seq = p.seq.max(kernel.head());
                }
            }
            _ => {}
        }
        Some(frame)
    }

    /// The disk as it was before this batch, if the sink is to forget it after the acknowledgement.
    pub fn will_forget(&mut self, a: usize, frame: &wire::Frame) -> Option<MemDisk> {
        let batch = matches!(&frame.body, Some(Body::SyncPush(p)) if !p.entities.is_empty());
        let forgets = batch && self.scenario.mutant == Some(Mutant::ForgedAck) && self.rng.chance(25);
        forgets.then(|| self.agents[a].disk.copy())
    }

    fn some_entity(&mut self, a: usize) -> Option<Stored> {
        let view = self.agents[a].kernel()?.view();
        let n = self.rng.below(view.next_entity().into()) as u32;
        view.get(n).ok().flatten()
    }

    /// The source applies what it sent, as if the peer had introduced it.
    pub fn echo(&mut self, a: usize, peer: usize) -> Result<(), Violation> {
        if self.scenario.mutant != Some(Mutant::Echo) || self.rng.chance(60) {
            return Ok(());
        }
        let (Some(s), key, now) = (self.some_entity(a), self.agents[peer].key, self.agents[a].clock(self.now)) else {
            return Ok(());
        };
        if let Some(kernel) = self.agents[a].kernel() {
            // If the machine stops here, that is no concern of the bug's.
            let _ = kernel.write(now.wall_ms, move |tx| tx.put(s.bytes.clone(), key, Some(&s)));
            self.say(|| format!("PLANTED: k{a} applies its own entity"));
        }
        self.after(a).map(|_| ())
    }

    /// A write that includes the version before it, with an earlier time.
    pub fn old_clock(&mut self, a: usize) -> Result<(), Violation> {
        let Some(s) = self.some_entity(a) else { return Ok(()) };
        let Ok(e) = s.entity() else { return Ok(()) };
        let (mut d, origin) = (e.to_draft(), s.origin);
        d.time = Hlc(d.time.0 - 1);
        d.kernel = KernelKey(7);
        d.vector.raise(d.kernel, d.time);
        if let Some(kernel) = self.agents[a].kernel() {
            let _ = kernel.write(0, move |tx| tx.put(d.encode().into(), origin, Some(&s)));
        }
        self.say(|| format!("PLANTED: k{a} writes with an earlier time"));
        self.after(a).map(|_| ())
    }
}
