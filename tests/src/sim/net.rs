//! Connections: frames of one direction stay in order, everything else may happen in any order, late or not at all.

use super::invariants::Violation;
use super::world::{Happening, World};
use mew_contract::{Problem, Reason};
use mew_sync::{ConnId, Connected, Event};
use mew_wire as wire;
use std::collections::{BTreeMap, VecDeque};
use wire::frame::Body;

pub enum Item {
    Frame(wire::Frame),
    /// The other end has closed.
    End,
}

pub struct Side {
    pub agent: usize,
    epoch: u64,
    open: bool,
    /// On the way to this side.
    arriving: VecDeque<Item>,
    last: u64,
}

/// `sides[0]` dialled.
pub struct Conn {
    pub sides: [Side; 2],
    /// Numbers of flows on this connection, and which they are.
    pub flows: BTreeMap<u32, usize>,
    /// Nothing passes any more, whether or not the ends know.
    dead: bool,
}

impl Conn {
    fn is_between(&self, a: usize, b: usize) -> bool {
        let ends = [self.sides[0].agent, self.sides[1].agent];
        ends == [a, b] || ends == [b, a]
    }

    /// A frame that is more than keepalive is on its way.
    pub fn is_busy(&self) -> bool {
        let idle = |i: &Item| match i {
            Item::Frame(f) => matches!(f.body, Some(Body::Ping(_) | Body::Pong(_))),
            Item::End => false,
        };
        !self.dead && self.sides.iter().any(|s| s.open && !s.arriving.iter().all(idle))
    }
}

pub fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    /// Mostly quick, sometimes not.
    fn delay(&mut self) -> u64 {
        let slow = !self.calm && self.rng.chance(5);
        if slow { self.rng.between(100, 1_500) } else { self.rng.between(1, 30) }
    }

    pub fn dial(&mut self, a: usize, peer: usize) {
        let (at, epoch) = (self.now + self.delay(), self.agents[a].epoch);
        self.at(at, Happening::Dialled { agent: a, peer, epoch });
    }

    pub fn dialled(&mut self, a: usize, peer: usize, epoch: u64) -> Result<(), Violation> {
        if self.agents[a].epoch != epoch {
            return Ok(());
        }
        if self.agents[peer].up.is_none() || self.partitions.contains(&pair(a, peer)) {
            let why = Problem::new(Reason::Unreachable, "the simulated address does not answer");
            return self.handle(a, peer, Event::ConnectFailed(why));
        }
        self.last_conn += 1;
        let conn = self.last_conn;
        let side = |agent: usize, epoch: u64| Side { agent, epoch, open: true, arriving: VecDeque::new(), last: 0 };
        let sides = [side(a, epoch), side(peer, self.agents[peer].epoch)];
        self.conns.insert(conn, Conn { sides, flows: BTreeMap::new(), dead: false });
        self.say(|| format!("k{a} and k{peer} have connection {conn}"));
        let connected = |dialled: bool, other: usize| {
            let endpoint = format!("k{other}:9001");
            Event::Connected(Connected { conn, dialled, endpoint, certificate_not_after_ms: None, root: None })
        };
        self.handle(peer, a, connected(false, a))?;
        self.handle(a, peer, connected(true, peer))
    }

    pub fn send(&mut self, a: usize, conn: ConnId, frame: wire::Frame) -> Result<(), Violation> {
        self.inspect(a, conn, &frame)?;
        self.push(a, conn, Item::Frame(frame));
        Ok(())
    }

    fn push(&mut self, a: usize, conn: ConnId, item: Item) {
        let delay = self.delay();
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let me = usize::from(c.sides[1].agent == a);
        if c.dead || !c.sides[me].open || !c.sides[1 - me].open {
            return;
        }
        let to = &mut c.sides[1 - me];
        let at = (self.now + delay).max(to.last);
        to.last = at;
        to.arriving.push_back(item);
        self.at(at, Happening::Arrives { conn, side: 1 - me });
    }

    /// What a frame says, held against what is known when it is sent.
    fn inspect(&mut self, a: usize, conn: ConnId, frame: &wire::Frame) -> Result<(), Violation> {
        match &frame.body {
            Some(Body::FlowOpen(o)) => {
                let which = self.flows.iter().position(|f| f.spec.name == o.name);
                if let (Some(i), Some(c)) = (which, self.conns.get_mut(&conn)) {
                    c.flows.insert(o.flow, i);
                }
            }
            Some(Body::SyncPush(p)) => {
                if let Some(i) = self.flow_on(conn, p.flow) {
                    let (upto, entities, leaves) = (p.upto, p.entities.len(), p.leaves.len());
                    self.say(|| format!("k{a} sends f{i} up to {upto}: {entities} entities, {leaves} leaves"));
                    self.flows[i].sent(p)?;
                }
            }
            Some(Body::SyncAck(ack)) => {
                let upto = ack.upto;
                if let Some(i) = self.flow_on(conn, ack.flow) {
                    if let Some(kernel) = self.agents[a].kernel() {
                        self.flows[i].acked(kernel, upto)?;
                    }
                    self.say(|| format!("k{a} acknowledges f{i} up to {upto}"));
                }
            }
            Some(Body::FlowRefuse(r)) => {
                let code = r.code.clone();
                self.say(|| format!("k{a} refuses a flow: {code}"));
            }
            Some(Body::SyncNack(n)) => {
                let code = n.code.clone();
                self.say(|| format!("k{a} stops a flow: {code}"));
            }
            _ => {}
        }
        Ok(())
    }

    fn flow_on(&self, conn: ConnId, number: u32) -> Option<usize> {
        self.conns.get(&conn)?.flows.get(&number).copied()
    }

    pub fn arrives(&mut self, conn: ConnId, side: usize) -> Result<(), Violation> {
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        let peer = c.sides[1 - side].agent;
        let to = &mut c.sides[side];
        let (a, epoch) = (to.agent, to.epoch);
        // A cut connection has nothing left.
        let Some(item) = to.arriving.pop_front() else { return Ok(()) };
        if self.agents[a].epoch != epoch {
            return Ok(());
        }
        match item {
            Item::End => {
                to.open = false;
                to.arriving.clear();
                self.handle(a, peer, Event::Closed(conn, None))
            }
            Item::Frame(f) => match self.tamper(conn, a, f) {
                Some(f) => self.frame(a, peer, conn, f),
                None => Ok(()),
            },
        }
    }

    fn frame(&mut self, a: usize, peer: usize, conn: ConnId, frame: wire::Frame) -> Result<(), Violation> {
        let (pushes, acks) =
            (matches!(frame.body, Some(Body::SyncPush(_))), matches!(frame.body, Some(Body::SyncAck(_))));
        let forgets = self.will_forget(a, &frame);
        self.handle(a, peer, Event::Frame(conn, frame))?;
        if pushes {
            self.observe(a)?;
        }
        if acks {
            self.echo(a, peer)?;
        }
        if let Some(disk) = forgets
            && self.agents[a].up.is_some()
        {
            self.crash(a, true);
            self.agents[a].disk = disk;
        }
        Ok(())
    }

    /// The link of `a` closes: the peer sees it behind what was sent, and `a` itself may hear of it late.
    pub fn close(&mut self, a: usize, conn: ConnId) {
        self.push(a, conn, Item::End);
        let at = self.now + self.delay();
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let me = usize::from(c.sides[1].agent == a);
        c.sides[me].open = false;
        c.sides[me].arriving.clear();
        self.at(at, Happening::Closed { conn, side: me });
    }

    pub fn closed(&mut self, conn: ConnId, side: usize) -> Result<(), Violation> {
        let Some(c) = self.conns.get(&conn) else { return Ok(()) };
        let (a, epoch, peer) = (c.sides[side].agent, c.sides[side].epoch, c.sides[1 - side].agent);
        if self.agents[a].epoch != epoch {
            return Ok(());
        }
        self.handle(a, peer, Event::Closed(conn, None))
    }

    /// Nothing passes any more. Each end is told with a chance of so many per cent; otherwise only keepalive finds out.
    pub fn cut(&mut self, conn: ConnId, told: u64) {
        self.say(|| format!("connection {conn} is cut"));
        if let Some(c) = self.conns.get_mut(&conn) {
            c.dead = true;
            for s in &mut c.sides {
                s.arriving.clear();
            }
        }
        for side in 0..2 {
            if self.rng.chance(told) {
                let at = self.now + self.rng.between(1, 800);
                self.at(at, Happening::Closed { conn, side });
            }
        }
    }

    fn open_conns(&self, wanted: impl Fn(&Conn) -> bool) -> Vec<ConnId> {
        let open = |c: &Conn| !c.dead && c.sides.iter().all(|s| s.open);
        self.conns.iter().filter(|(_, c)| open(c) && wanted(c)).map(|(n, _)| *n).collect()
    }

    pub fn break_one(&mut self) {
        let all = self.open_conns(|_| true);
        if let Some(conn) = self.rng.pick(&all) {
            self.cut(conn, 70);
        }
    }

    pub fn part(&mut self, a: usize, b: usize) {
        self.say(|| format!("k{a} and k{b} are parted"));
        self.partitions.insert(pair(a, b));
        for conn in self.open_conns(|c| c.is_between(a, b)) {
            self.cut(conn, 30);
        }
        let at = self.now + self.rng.between(300, 6_000);
        self.at(at, Happening::Joined { pair: pair(a, b) });
    }

    /// The machine of `a` stopped: what it had sent may still arrive, and the peer may hear of the end.
    pub fn hang_up(&mut self, a: usize, sent_arrives: bool) {
        for conn in self.open_conns(|c| c.sides.iter().any(|s| s.agent == a)) {
            if sent_arrives || self.rng.chance(50) {
                self.push(a, conn, Item::End);
                if let Some(c) = self.conns.get_mut(&conn) {
                    let me = usize::from(c.sides[1].agent == a);
                    c.sides[me].open = false;
                    c.sides[me].arriving.clear();
                }
            } else {
                self.cut(conn, 50);
            }
        }
    }
}
