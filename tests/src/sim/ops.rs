//! What applications do to their kernels, and what happens to machines and networks.

use super::invariants::{STORE_SOUND, Violation, violated};
use super::scenario::{Mutant, Wipe};
use super::world::{Happening, World};
use mew_kernel::{KernelError, Params};
use mew_model::name;
use mew_store::{Fault, StoreError, Upkeep};
use mew_sync::OpenTime;

/// Entities that one kernel lets live at a time; together with the tombstones this stays small.
const MOST_LIVING: usize = 14;

impl World {
    /// Schedules so many operations and runs them.
    pub fn disturb(&mut self, ops: u64) -> Result<(), Violation> {
        self.calm = false;
        let mut at = self.now;
        for _ in 0..ops {
            at += if self.rng.chance(30) { self.rng.below(10) } else { self.rng.between(20, 700) };
            self.at(at, Happening::Op);
        }
        self.run_until(at + 1)
    }

    pub fn op(&mut self) -> Result<(), Violation> {
        self.stats.ops += 1;
        match self.rng.below(100) {
            0..=69 => return self.write(),
            70..=72 => return self.tidy_up(),
            73..=79 => self.break_one(),
            80..=84 => {
                let i = self.rng.below(self.flows.len() as u64) as usize;
                let (a, b) = (self.flows[i].spec.source, self.flows[i].spec.sink);
                self.part(a, b);
            }
            85..=89 => {
                let a = self.any_agent();
                if self.agents[a].up.is_some() {
                    self.crash(a, false);
                }
            }
            90..=96 => {
                let (a, n) = (self.any_agent(), self.rng.below(9));
                self.say(|| format!("k{a} will stop after {n} more writes or syncs"));
                self.agents[a].disk.set_fault(Fault { stops_after: Some(n), ..Fault::default() });
            }
            97 => {
                let (a, room) = (self.any_agent(), self.rng.below(900));
                self.say(|| format!("the disk of k{a} has room for {room} bytes"));
                self.agents[a].disk.set_fault(Fault { room: Some(room), ..Fault::default() });
            }
            _ => {
                let a = self.any_agent();
                self.agents[a].disk.set_fault(Fault::default());
            }
        }
        Ok(())
    }

    /// Checkpoint and compaction, as far as the flows allow, with whatever the disk does meanwhile.
    pub fn tidy_up(&mut self) -> Result<(), Violation> {
        let a = self.any_agent();
        let Some(kernel) = self.agents[a].kernel() else { return Ok(()) };
        let too_far = self.scenario.mutant == Some(Mutant::CompactedTooFar);
        let done = mew_sync::floor(kernel, &mut OpenTime::default())
            .map_err(|e| e.to_string())
            .map(|floor| if too_far { u64::MAX } else { floor })
            .and_then(|floor| kernel.maintain(&Upkeep::thorough(floor, 0)).map_err(|e| e.to_string()));
        match done {
            Ok(kept) => {
                self.stats.rewritten += kept.rewritten;
                self.say(|| format!("k{a} tidied up: {kept:?}"));
            }
            Err(_) if self.agents[a].disk.stopped() || self.agents[a].disk.has_fault() => {}
            Err(why) => return Err(violated(STORE_SOUND, format!("k{a} cannot tidy up: {why}"))),
        }
        self.after(a).map(|_| ())
    }

    fn any_agent(&mut self) -> usize {
        self.rng.below(self.agents.len() as u64) as usize
    }

    pub fn write(&mut self) -> Result<(), Violation> {
        let i = self.rng.below(self.flows.len() as u64) as usize;
        let (source, sink, ty) = (self.flows[i].spec.source, self.flows[i].spec.sink, self.flows[i].spec.ty);
        if self.rng.chance(10) {
            return self.write_at_sink(i, sink);
        }
        self.write_as_source(source, ty)
    }

    pub fn write_as_source(&mut self, source: usize, ty: &'static str) -> Result<(), Violation> {
        let Some(text) = self.statement(source, ty) else { return Ok(()) };
        self.execute(source, &text)?;
        if self.scenario.mutant == Some(Mutant::OldClock) && self.rng.chance(20) {
            self.old_clock(source)?;
        }
        Ok(())
    }

    /// The sink's own entities get in the way of what arrives; sometimes it changes what has arrived.
    fn write_at_sink(&mut self, flow: usize, sink: usize) -> Result<(), Violation> {
        if self.scenario.sink_writes && self.rng.chance(70) {
            let arrived = self.arrived(flow, sink);
            let Some(id) = self.rng.pick(&arrived) else { return Ok(()) };
            let n = self.rng.below(100);
            self.touched.insert(id.clone());
            return self.execute(sink, &format!("SET #\"{id}\" {{name = \"here{n}\"}}"));
        }
        let task = name::number("Task");
        let own: Vec<String> = self.agents[sink].own().into_iter().filter(|o| o.1 == task).map(|o| o.0).collect();
        // Where Tasks are sent from, those that get in the way would be sent as well.
        if self.flows.iter().any(|f| f.spec.source == sink && f.node == task) {
            return Ok(());
        }
        let code = self.code();
        let text = match self.rng.pick(&own) {
            Some(id) if own.len() > 3 || self.rng.chance(40) => {
                if self.rng.chance(50) {
                    format!("KILL #\"{id}\"")
                } else {
                    format!("SET #\"{id}\" {{code = {code}}}")
                }
            }
            _ => format!("SPAWN Task {{name = \"local\", shared = true, code = {code}}}"),
        };
        self.execute(sink, &text)
    }

    /// Living nodes at the sink that came by the flow.
    fn arrived(&self, flow: usize, sink: usize) -> Vec<String> {
        let (Some(kernel), f) = (self.agents[sink].kernel(), &self.flows[flow]) else { return Vec::new() };
        let key = self.agents[f.spec.source].key;
        let view = kernel.view();
        let all = (0..view.next_entity()).filter_map(|n| view.get(n).ok().flatten());
        let id = |s: mew_store::Stored| {
            let e = s.entity().ok().filter(|e| !e.deleted && e.ty == f.node)?;
            Some(e.sync_id.to_owned())
        };
        all.filter(|s| s.origin == key).filter_map(id).collect()
    }

    fn code(&mut self) -> String {
        let n = self.rng.below(7);
        if n > 4 { "null".to_owned() } else { format!("\"c{n}\"") }
    }

    /// Ids of the application's choice come again after a kill; without one the kernel derives an id.
    fn sync_id(&mut self, a: usize, what: &str) -> String {
        let (own, n) = (self.rng.chance(30), self.rng.below(4));
        // An id that comes again in another data directory has an earlier time there, if clocks went back.
        if own && self.scenario.wipe != Some(Wipe::Source) {
            format!(", _sync_id = \"k{a}-{what}{n}\"")
        } else {
            String::new()
        }
    }

    fn node(&mut self, a: usize, ty: &str) -> String {
        let (n, shared, id) = (self.rng.below(100), self.rng.chance(65), self.sync_id(a, ty));
        let code =
            if ty == "Task" && self.rng.chance(35) { format!(", code = {}", self.code()) } else { String::new() };
        format!("{ty} {{name = \"n{n}\", shared = {shared}{code}{id}}}")
    }

    /// One thing that the source's application does.
    fn statement(&mut self, a: usize, ty: &'static str) -> Option<String> {
        let all = self.agents[a].own();
        let of = |ty: &str| {
            let number = name::number(ty);
            all.iter().filter(|o| o.1 == number).map(|o| o.0.clone()).collect::<Vec<_>>()
        };
        let (nodes, people) = (of(ty), of("Person"));
        let link = if ty == "Task" { "links" } else { "cites" };
        let edges: Vec<String> = [of(link), of("owns")].concat();
        let full = all.iter().filter(|o| !o.2).count() >= MOST_LIVING;
        let roll = self.rng.below(100);
        let one = self.rng.pick(&nodes);
        let Some(one) = one.filter(|_| full || roll >= 28) else {
            return Some(if ty == "Task" && self.rng.chance(12) {
                "SPAWN Person {name = \"p\"}".to_owned()
            } else {
                format!("SPAWN {}", self.node(a, ty))
            });
        };
        let weight = self.rng.below(50);
        Some(match roll {
            0..=49 => {
                let shared = self.rng.chance(50);
                format!("SET #\"{one}\" {{shared = {shared}}}")
            }
            50..=56 if ty == "Task" => format!("SET #\"{one}\" {{code = {}}}", self.code()),
            50..=59 => format!("SET #\"{one}\" {{name = \"m{weight}\"}}"),
            60..=69 => format!("KILL #\"{one}\""),
            70..=83 => {
                let id = self.sync_id(a, link);
                let person = self.rng.pick(&people).filter(|_| ty == "Task" && weight < 15);
                match (person, self.rng.pick(&nodes)) {
                    (Some(p), _) => format!("LINK owns(#\"{p}\", #\"{one}\")"),
                    (None, Some(other)) if other != one => {
                        format!("LINK {link}(#\"{one}\", #\"{other}\") {{weight = {weight}{id}}}")
                    }
                    _ => return None,
                }
            }
            84..=88 => format!("UNLINK #\"{}\"", self.rng.pick(&edges)?),
            89..=91 => {
                let edge = self.rng.pick(&of(link))?;
                format!("SET #\"{edge}\" {{weight = {weight}}}")
            }
            92..=94 => {
                // One commit: the same edge between other nodes, one of them new.
                let own = format!("k{a}-{link}");
                let edge = all.iter().map(|o| &o.0).find(|id| id.starts_with(&own))?;
                let node = self.node(a, ty);
                format!(
                    "BEGIN; UNLINK #\"{edge}\"; SPAWN s: {node}; \
                     LINK {link}(s, #\"{one}\") {{weight = {weight}, _sync_id = \"{edge}\"}}; COMMIT"
                )
            }
            _ => {
                let (x, y) = (self.node(a, ty), self.node(a, ty));
                format!(
                    "BEGIN; SPAWN s: {x}; SPAWN u: {y}; LINK {link}(s, u) {{weight = {weight}}}; KILL #\"{one}\"; COMMIT"
                )
            }
        })
    }

    fn execute(&mut self, a: usize, text: &str) -> Result<(), Violation> {
        let wall = self.agents[a].clock(self.now).wall_ms;
        let Some(kernel) = self.agents[a].kernel() else { return Ok(()) };
        let result = kernel.execute(wall, text, &Params::new());
        let outcome = result.as_ref().map_or_else(|e| format!("failed: {e}"), |o| format!("seq {}", o.seq));
        self.say(|| format!("k{a}: {text}  → {outcome}"));
        match result {
            Ok(_) => self.stats.writes += 1,
            Err(KernelError::Text(_)) => panic!("the simulation wrote what is no statement: {text}: {outcome}"),
            Err(KernelError::Store(e)) if !self.agents[a].disk.stopped() && !matches!(*e, StoreError::Full) => {
                return Err(violated(STORE_SOUND, format!("k{a} cannot write and its disk is sound: {e}")));
            }
            // The rules of the ontology forbid it, or the disk is full, or the machine stopped.
            Err(_) => {}
        }
        self.after(a).map(|_| ())
    }
}
