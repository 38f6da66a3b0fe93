//! The loop: what happens, in order of simulated time, to agents, their links and their connections.

use super::Stats;
use super::agent::{Agent, Running, entity, store_error};
use super::invariants::{NO_ECHO, SETTLES, STORE_SOUND, Violation, violated};
use super::ledger::{Flow, Versions};
use super::net::Conn;
use super::rng::Rng;
use super::scenario::Scenario;
use mew_contract::{FlowReport, FlowState};
use mew_sync::{ConnId, Effect, Event, Link};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// By then every dead connection has been noticed; see the keepalive in `scenario.rs`.
const NOTICED_MS: u64 = 10_000;
/// Lines of the trace that a failure shows.
const TRACE: usize = 40;
/// More than this is a loop in which time stands still.
const MAX_STEPS: u64 = 100_000;
/// With all faults over, this long is enough for anything.
const SETTLE_MS: u64 = 90_000;

pub enum Happening {
    /// Somebody writes, or something breaks.
    Op,
    Start(usize),
    Dialled {
        agent: usize,
        peer: usize,
        epoch: u64,
    },
    Arrives {
        conn: ConnId,
        side: usize,
    },
    Closed {
        conn: ConnId,
        side: usize,
    },
    Timer {
        agent: usize,
        peer: usize,
        epoch: u64,
        at: u64,
    },
    /// The links hear of a commit.
    Committed {
        agent: usize,
        epoch: u64,
    },
    /// The watcher of held entities hears of a commit.
    Watch {
        agent: usize,
        epoch: u64,
    },
    Joined {
        pair: (usize, usize),
    },
}

pub struct World {
    pub rng: Rng,
    pub scenario: Scenario,
    pub flows: Vec<Flow>,
    pub agents: Vec<Agent>,
    pub conns: BTreeMap<ConnId, Conn>,
    pub last_conn: ConnId,
    pub partitions: BTreeSet<(usize, usize)>,
    /// Milliseconds on the clock that never jumps.
    pub now: u64,
    /// The faults are over.
    pub calm: bool,
    pub versions: Versions,
    /// Entities of the source that the sink has changed as well.
    pub touched: BTreeSet<String>,
    /// The source's data directory was lost.
    pub wiped: bool,
    pub stats: Stats,
    queue: BTreeMap<(u64, u64), Happening>,
    scheduled: u64,
    pub trace: Option<VecDeque<String>>,
}

impl World {
    pub fn new(seed: u64, scenario: Scenario, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let agents: Vec<Agent> = (0..scenario.agents()).map(|n| Agent::new(n, &mut rng)).collect();
        let ids: Vec<String> = agents.iter().map(|a| a.id.clone()).collect();
        let flows = scenario.flows().into_iter().map(|f| Flow::new(f, &scenario, &ids)).collect();
        World {
            rng,
            flows,
            agents,
            conns: BTreeMap::new(),
            last_conn: 0,
            partitions: BTreeSet::new(),
            now: 0,
            calm: false,
            versions: Versions::default(),
            touched: BTreeSet::new(),
            wiped: false,
            stats: Stats::default(),
            queue: BTreeMap::new(),
            scheduled: 0,
            trace: traced.then(VecDeque::new),
            scenario,
        }
    }

    pub fn say(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(t) = &mut self.trace {
            t.push_back(format!("{now:>7} ms  {}", line()));
            if t.len() > TRACE {
                t.pop_front();
            }
        }
    }

    pub fn at(&mut self, at: u64, what: Happening) {
        self.scheduled += 1;
        self.queue.insert((at.max(self.now), self.scheduled), what);
    }

    pub fn run_until(&mut self, until: u64) -> Result<(), Violation> {
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= until) {
            let Some(((at, _), what)) = self.queue.pop_first() else { break };
            self.now = at;
            self.stats.steps += 1;
            if self.stats.steps > MAX_STEPS {
                return Err(violated(SETTLES, format!("{MAX_STEPS} steps, and still something to do at once")));
            }
            self.happens(what)?;
        }
        self.now = until;
        Ok(())
    }

    fn happens(&mut self, what: Happening) -> Result<(), Violation> {
        match what {
            Happening::Op => self.op(),
            Happening::Start(a) => self.start(a),
            Happening::Dialled { agent, peer, epoch } => self.dialled(agent, peer, epoch),
            Happening::Arrives { conn, side } => self.arrives(conn, side),
            Happening::Closed { conn, side } => self.closed(conn, side),
            Happening::Timer { agent, peer, epoch, at } => self.timer(agent, peer, epoch, at),
            Happening::Committed { agent, epoch } => {
                if let Some(run) = self.running(agent, epoch) {
                    run.woken = false;
                }
                self.tell(agent, epoch, &Event::Wake)
            }
            Happening::Watch { agent, epoch } => match self.running(agent, epoch).and_then(Running::changed) {
                Some(ids) => self.tell(agent, epoch, &Event::Changed(ids)),
                None => Ok(()),
            },
            Happening::Joined { pair } => {
                self.partitions.remove(&pair);
                Ok(())
            }
        }
    }

    /// An event for every link of an agent, unless it stops on the way.
    fn tell(&mut self, a: usize, epoch: u64, event: &Event) -> Result<(), Violation> {
        for peer in self.peers(a) {
            if self.agents[a].epoch == epoch {
                self.handle(a, peer, event.clone())?;
            }
        }
        Ok(())
    }

    fn timer(&mut self, a: usize, peer: usize, epoch: u64, at: u64) -> Result<(), Violation> {
        let Some(run) = self.running(a, epoch) else { return Ok(()) };
        if run.timers.get(&peer) != Some(&at) {
            return Ok(());
        }
        run.timers.remove(&peer);
        if run.links.get(&peer).and_then(Link::wake_at).is_some_and(|t| t <= at) {
            return self.handle(a, peer, Event::Wake);
        }
        self.arm(a, peer);
        Ok(())
    }

    /// Schedules what `wake_at` asks for.
    fn arm(&mut self, a: usize, peer: usize) {
        let (now, late) = (self.now, self.rng.below(3));
        let agent = &mut self.agents[a];
        let epoch = agent.epoch;
        let Some(run) = &mut agent.up else { return };
        let Some(wish) = run.links.get(&peer).and_then(Link::wake_at) else { return };
        let at = wish.max(now + 1) + late;
        if run.timers.get(&peer).is_none_or(|t| *t > at) {
            run.timers.insert(peer, at);
            self.at(at, Happening::Timer { agent: a, peer, epoch, at });
        }
    }

    pub fn handle(&mut self, a: usize, peer: usize, event: Event) -> Result<(), Violation> {
        let (random, now) = (self.rng.draw(), self.agents[a].clock(self.now));
        let Some(run) = &mut self.agents[a].up else { return Ok(()) };
        let Some(link) = run.links.get_mut(&peer) else { return Ok(()) };
        let before = run.kernel.head();
        let effects = link.handle(now, random, event, &run.kernel);
        if run.kernel.head() != before && !self.flows.iter().any(|f| f.spec.sink == a) {
            return Err(violated(NO_ECHO, format!("a link wrote into k{a}, which is the sink of nothing")));
        }
        // Nothing leaves a machine that has stopped.
        if !self.after(a)? {
            return Ok(());
        }
        for e in effects {
            match e {
                Effect::Dial => self.dial(a, peer),
                Effect::Send(conn, frame) => self.send(a, conn, frame)?,
                Effect::Close(conn) => self.close(a, conn),
            }
        }
        self.arm(a, peer);
        Ok(())
    }

    /// After everything that can have committed: whether the machine still runs. What is new goes into the ledger, and
    /// those who wait for commits are told.
    pub fn after(&mut self, a: usize) -> Result<bool, Violation> {
        let agent = &mut self.agents[a];
        let Some(run) = &mut agent.up else { return Ok(false) };
        if agent.disk.stopped() {
            self.crash(a, false);
            return Ok(false);
        }
        if let Some(why) = run.kernel.broken() {
            return Err(violated(STORE_SOUND, format!("the store of k{a} broke and its disk did not: {why}")));
        }
        let head = run.kernel.head();
        if head == agent.read_to {
            return Ok(true);
        }
        let mut fresh = Vec::new();
        while run.kernel.history(&mut run.read, &mut fresh).map_err(store_error)? {}
        agent.read_to = head;
        let (wake, watch) = (!run.woken, !run.told);
        (run.woken, run.told) = (true, true);
        let (key, incarnation, epoch) = (agent.key, agent.incarnation, agent.epoch);
        for s in &fresh {
            self.stats.versions += 1;
            self.versions.note(&entity(s)?)?;
            for f in self.flows.iter_mut().filter(|f| f.spec.source == a) {
                f.committed(key, incarnation, s)?;
            }
        }
        if wake {
            let at = self.now + self.rng.below(6);
            self.at(at, Happening::Committed { agent: a, epoch });
        }
        if watch {
            let at = self.now + self.rng.between(1, 20);
            self.at(at, Happening::Watch { agent: a, epoch });
        }
        Ok(true)
    }

    /// Looks at the positions that a sink keeps.
    pub fn observe(&mut self, a: usize) -> Result<(), Violation> {
        let Some(kernel) = self.agents[a].kernel() else { return Ok(()) };
        for f in self.flows.iter_mut().filter(|f| f.spec.sink == a) {
            f.observe(kernel)?;
        }
        Ok(())
    }

    /// The agent, if it runs and has not been started again since.
    fn running(&mut self, a: usize, epoch: u64) -> Option<&mut Running> {
        let agent = &mut self.agents[a];
        if agent.epoch == epoch { agent.up.as_mut() } else { None }
    }

    pub fn reports(&self, a: usize) -> Vec<FlowReport> {
        let Some(run) = &self.agents[a].up else { return Vec::new() };
        let wall = self.agents[a].clock(self.now).wall_ms;
        run.links.values().flat_map(|l| l.report(wall, &run.kernel).1).collect()
    }

    /// What is not done yet, if anything.
    fn unsettled(&self) -> Option<String> {
        for (n, a) in self.agents.iter().enumerate() {
            let Some(run) = &a.up else { return Some(format!("k{n} is down")) };
            if run.woken || run.told {
                return Some(format!("k{n} has just committed"));
            }
            let done = |f: &FlowReport| {
                f.state == FlowState::Live && f.pending == Some(0) && f.lag_ms.is_none_or(|lag| lag == 0)
            };
            if let Some(f) = self.reports(n).into_iter().find(|f| !done(f)) {
                return Some(format!("k{n} reports {f:?}"));
            }
        }
        self.conns.values().any(Conn::is_busy).then(|| "frames are on their way".to_owned())
    }

    /// **settles**: with the faults over, every flow is live and has nothing pending before long.
    pub fn settle(&mut self) -> Result<(), Violation> {
        let end = self.now + SETTLE_MS;
        // A connection that died without a word is noticed by its keepalive; until then a sink believes itself up to date.
        self.run_until(self.now + NOTICED_MS)?;
        loop {
            self.run_until(self.now + 700)?;
            match self.unsettled() {
                None => return Ok(()),
                Some(what) if self.now > end => return Err(violated(SETTLES, what)),
                Some(_) => {}
            }
        }
    }
}
