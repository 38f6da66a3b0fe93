//! A sink that is away: what it has is remembered for a week, and history with it; after that it copies anew, what nobody
//! knows any more is said, and people bring both sides together.

mod common;

use bytes::Bytes;
use common::{NOW_MS, connected, local};
use mew_contract::samples::{HERE, THERE, remote_item, sync_item};
use mew_contract::snapshot::Direction;
use mew_contract::{FlowReport, FlowState, Problem, Reason, RemoteItem, SyncItem};
use mew_kernel::{Kernel, Params};
use mew_lang::parse_ontology;
use mew_model::Value;
use mew_model::name::number;
use mew_store::{Kept, MemDisk, Options, Store, Upkeep};
use mew_sync::{ConnId, Effect, Event, Link, Now, OpenTime, floor};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

const ONTOLOGY: &str = "node Task { name: String? shared: Bool? }";
const DAY_MS: u64 = 24 * 3_600_000;
/// As in `members/floor.rs`, and as an agent's upkeep keeps tombstones.
const WEEK_MS: u64 = 7 * DAY_MS;
/// Some commits fill one, so that what was replaced lies in closed ones.
const SEGMENT: u32 = 600;
const SOURCE: usize = 0;
const SINK: usize = 1;
/// Looks at a pair that settles, and how far apart they are.
const LOOKS: u32 = 600;
const LOOK_MS: u64 = 100;
/// What the source's upkeep looks at, seldom enough for a test of weeks.
const UPKEEP_MS: u64 = 60_000;

struct End {
    kernel: Kernel,
    link: Link,
    remote: RemoteItem,
}

impl End {
    fn new(id: &str, remote: RemoteItem) -> Self {
        let o = parse_ontology(ONTOLOGY).expect("the ontology is right");
        let options = Options { kernel_id: id.into(), new_incarnation: format!("{id}-1"), segment_bytes: SEGMENT };
        let (store, _) = Store::open(Arc::new(MemDisk::new()), Arc::new(o), options).expect("an empty store opens");
        let kernel = Kernel::new(store);
        let link = Link::new(local(1_000), remote.clone(), &kernel);
        End { kernel, link, remote }
    }
}

/// A source and a sink, and what is on its way between them.
struct Pair {
    ends: [End; 2],
    declarer: usize,
    sync: SyncItem,
    online: bool,
    conn: Option<ConnId>,
    last_conn: ConnId,
    queue: VecDeque<(usize, Event)>,
    mono_ms: u64,
    /// How far the source had come, and when.
    heads: Vec<(u64, u64)>,
    /// Of the source.
    open: OpenTime,
}

impl Pair {
    fn new(direction: Direction) -> Self {
        let here = RemoteItem { dial: true, accept: false, ..remote_item(&["*"]) };
        let there = RemoteItem { name: "there/here".into(), peer_kernel_id: HERE.into(), ..remote_item(&["*"]) };
        let declarer = if direction == Direction::Push { SOURCE } else { SINK };
        let remote = if direction == Direction::Push { here.name.clone() } else { there.name.clone() };
        let sync = SyncItem {
            remote,
            direction,
            pattern: "t: Task WHERE t.shared = true".into(),
            delete_on_unmatch: true,
            ..sync_item()
        };
        let mut p = Pair {
            ends: [End::new(HERE, here), End::new(THERE, there)],
            declarer,
            sync,
            online: true,
            conn: None,
            last_conn: 0,
            queue: VecDeque::new(),
            mono_ms: 0,
            heads: Vec::new(),
            open: OpenTime::default(),
        };
        p.configure();
        p
    }

    fn configure(&mut self) {
        for n in [SOURCE, SINK] {
            let syncs = if n == self.declarer { vec![self.sync.clone()] } else { Vec::new() };
            self.handle(n, Event::Configure(Box::new(self.ends[n].remote.clone()), syncs));
        }
    }

    fn wall_ms(&self) -> u64 {
        NOW_MS + self.mono_ms
    }

    fn handle(&mut self, n: usize, e: Event) {
        let now = Now { wall_ms: self.wall_ms(), mono_ms: self.mono_ms };
        let end = &mut self.ends[n];
        for effect in end.link.handle(now, 7, e, &end.kernel) {
            match effect {
                Effect::Send(c, f) if self.conn == Some(c) => self.queue.push_back((1 - n, Event::Frame(c, f))),
                Effect::Close(c) if self.conn == Some(c) => self.hang_up(),
                Effect::Send(..) | Effect::Close(..) => {}
                Effect::Dial if self.online => {
                    self.last_conn += 1;
                    self.conn = Some(self.last_conn);
                    let there = |dialled| Event::Connected(connected(self.last_conn, dialled, None));
                    self.queue.extend([(1 - n, there(false)), (n, there(true))]);
                }
                Effect::Dial => {
                    let why = Problem::new(Reason::Unreachable, "nobody is there");
                    self.queue.push_back((n, Event::ConnectFailed(why)));
                }
            }
        }
    }

    fn hang_up(&mut self) {
        if let Some(c) = self.conn.take() {
            self.queue.extend([SOURCE, SINK].map(|n| (n, Event::Closed(c, None))));
        }
    }

    fn deliver(&mut self) {
        while let Some((n, e)) = self.queue.pop_front() {
            self.handle(n, e);
        }
    }

    /// The sink cannot be reached for so long.
    fn away(&mut self, ms: u64) {
        self.disconnects();
        for _ in 0..ms / UPKEEP_MS {
            self.mono_ms += UPKEEP_MS;
            self.floor();
        }
        self.mono_ms += ms % UPKEEP_MS;
    }

    /// The source does not run for so long.
    fn is_off(&mut self, ms: u64) {
        self.disconnects();
        self.mono_ms += ms;
        self.open = OpenTime::default();
    }

    fn disconnects(&mut self) {
        self.heads.push((self.mono_ms, self.ends[SOURCE].kernel.head()));
        self.online = false;
        self.queue.clear();
        self.hang_up();
        self.deliver();
    }

    /// What an agent's upkeep asks each time.
    fn floor(&mut self) -> u64 {
        self.open.look(self.mono_ms);
        floor(&self.ends[SOURCE].kernel, &mut self.open).expect("a disk in memory")
    }

    fn comes_back(&mut self) {
        self.online = true;
        self.settle();
    }

    /// Until everything has arrived.
    fn settle(&mut self) {
        for _ in 0..LOOKS {
            self.mono_ms += LOOK_MS;
            for n in [SOURCE, SINK] {
                self.handle(n, Event::Wake);
            }
            self.deliver();
            let f = self.flow();
            if (f.state, f.pending, f.lag_ms) == (FlowState::Live, Some(0), Some(0)) {
                return;
            }
        }
        panic!("it does not settle: {:?}", self.flow());
    }

    /// As the side says that declares it, in its status and to its operator.
    fn flow(&self) -> FlowReport {
        let end = &self.ends[self.declarer];
        end.link.report(self.wall_ms(), &end.kernel).1.pop().expect("one Sync is declared")
    }

    fn execute(&self, n: usize, text: &str) {
        let done = self.ends[n].kernel.execute(self.wall_ms(), text, &Params::new());
        done.unwrap_or_else(|e| panic!("{text}: {e}"));
    }

    fn write(&self, text: &str) {
        self.execute(SOURCE, text);
    }

    fn spawn(&self, id: &str) {
        self.write(&format!(r#"SPAWN Task {{name = "first", shared = true, _sync_id = "{id}"}}"#));
    }

    fn kill(&self, n: usize, id: &str) {
        self.execute(n, &format!(r##"KILL #"{id}""##));
    }

    /// Closes the segments with what was written before.
    fn fill(&self) {
        for _ in 0..12 {
            self.write(r#"SPAWN Task {name = "not for others", shared = false}"#);
        }
    }

    /// What an agent's upkeep does at the source, though sooner.
    fn tidy_up(&mut self) -> Kept {
        let floor = self.floor();
        let kernel = &self.ends[SOURCE].kernel;
        let old = self.heads.iter().rev().find(|(at, _)| at + WEEK_MS <= self.mono_ms).map_or(0, |(_, head)| *head);
        kernel.maintain(&Upkeep::thorough(floor, old)).expect("upkeep succeeds")
    }

    fn source_knows(&self, id: &str) -> bool {
        self.ends[SOURCE].kernel.view().find(id).expect("a disk in memory").is_some()
    }

    fn of(&self, n: usize) -> BTreeMap<String, Bytes> {
        living(&self.ends[n].kernel)
    }

    fn are_equal(&self, when: &str) {
        let names = |n: usize| self.of(n).into_keys().collect::<Vec<_>>();
        assert_eq!(names(SOURCE), names(SINK), "{when}");
        assert_eq!(self.of(SOURCE), self.of(SINK), "{when}: the same ids, and other versions");
    }
}

/// What lives and matches, by id.
fn living(k: &Kernel) -> BTreeMap<String, Bytes> {
    let view = k.view();
    let all = (0..view.next_entity()).filter_map(|n| view.get(n).expect("a disk in memory"));
    all.filter_map(|s| {
        let e = s.entity().expect("what is stored is valid");
        let is_shared = e.attr(number("shared")) == Value::Bool(true);
        (!e.deleted && is_shared).then(|| (e.sync_id.to_owned(), s.bytes.clone()))
    })
    .collect()
}

/// A pair that was up, with tasks t0 to t11 at both sides.
fn pair(direction: Direction) -> Pair {
    let mut p = Pair::new(direction);
    for n in 0..12 {
        p.spawn(&format!("t{n}"));
    }
    p.settle();
    assert_eq!(p.of(SINK).len(), 12);
    p.are_equal("at first");
    assert!(!p.flow().needs_reconcile);
    p
}

#[test]
fn a_sink_that_is_away_for_less_than_a_week_hears_of_everything() {
    for direction in [Direction::Push, Direction::Pull] {
        let mut p = pair(direction);
        p.away(DAY_MS);
        p.kill(SOURCE, "t1");
        p.write(r##"SET #"t2" {name = "second"}"##);
        p.write(r##"SET #"t3" {shared = false}"##);
        p.spawn("u1");
        p.fill();
        p.away(5 * DAY_MS);
        p.tidy_up();
        assert!(p.source_knows("t1"), "{direction:?}: the tombstone waits for the sink");
        p.comes_back();
        p.are_equal(&format!("{direction:?}, after six days"));
        assert!(!p.flow().needs_reconcile, "{direction:?}: {:?}", p.flow());
        assert_eq!(p.of(SINK).len(), 11);
    }
}

/// Nobody could come.
#[test]
fn a_source_that_was_off_for_a_month_knows_its_sinks_still() {
    for direction in [Direction::Push, Direction::Pull] {
        let mut p = pair(direction);
        p.away(DAY_MS);
        p.kill(SOURCE, "t1");
        p.write(r##"SET #"t3" {shared = false}"##);
        p.fill();
        p.is_off(30 * DAY_MS);
        p.tidy_up();
        assert!(p.source_knows("t1"), "{direction:?}: the tombstone waits for the sink");
        p.comes_back();
        p.are_equal(&format!("{direction:?}, after a month"));
        assert!(!p.flow().needs_reconcile, "{direction:?}: {:?}", p.flow());
        assert_eq!(p.of(SINK).len(), 10);
    }
}

#[test]
fn a_sink_that_is_away_for_longer_copies_anew_and_what_nobody_knows_is_said() {
    for direction in [Direction::Push, Direction::Pull] {
        let when = |what: &str| format!("{direction:?}, {what}");
        let mut p = pair(direction);
        p.away(1);
        let lost = ["t4", "t5", "t6", "t8"];
        p.kill(SOURCE, "t4");
        p.kill(SOURCE, "t5");
        p.write(r##"SET #"t6" {shared = false}"##);
        p.write(r##"SET #"t7" {name = "second"}"##);
        p.spawn("u1");
        p.fill();
        p.away(4 * DAY_MS);
        assert_eq!(p.tidy_up().forgotten, 0, "{}", when("within the week everything waits for it"));
        p.kill(SOURCE, "t8");
        p.fill();
        p.away(4 * DAY_MS);
        let kept = p.tidy_up();
        assert!(kept.rewritten > 0 && kept.forgotten == 2, "{}", when(&format!("{kept:?}")));
        assert!(!p.source_knows("t4") && !p.source_knows("t5"), "{}", when("history is gone"));

        p.comes_back();
        assert!(p.flow().needs_reconcile, "{}", when("it is said"));
        // Everything that the source has is there; what it lost meanwhile is there as well, and no more than that.
        let (here, there) = (p.of(SOURCE), p.of(SINK));
        assert!(here.iter().all(|(id, bytes)| there.get(id) == Some(bytes)), "{}", when("the copy is whole"));
        assert!(here.contains_key("u1") && here.len() == 12 - lost.len() + 1);
        let more: BTreeSet<&str> = there.keys().filter(|id| !here.contains_key(*id)).map(String::as_str).collect();
        assert_eq!(more, BTreeSet::from(lost), "{}", when("what nobody knows any more"));

        // It is said until somebody has done something about it, also on another connection.
        p.away(1_000);
        assert!(p.flow().needs_reconcile, "{}", when("a sink that is away has it still"));
        p.comes_back();
        assert!(p.flow().needs_reconcile, "{}", when("another connection changes nothing"));

        // What is deleted from now on is known.
        p.kill(SOURCE, "t9");
        p.settle();
        assert!(!p.of(SINK).contains_key("t9"), "{}", when("the members are known again"));

        // As docs/reasons/InSync.md says.
        for id in lost {
            p.kill(SINK, id);
        }
        p.sync.reset = Some("compared".into());
        p.configure();
        p.settle();
        assert!(!p.flow().needs_reconcile, "{}", when("it was asked for to begin anew"));
        p.are_equal(&when("in the end"));
        p.kill(SOURCE, "t10");
        p.write(r##"SET #"t11" {shared = false}"##);
        p.spawn("u2");
        p.settle();
        p.are_equal(&when("and from then on"));
    }
}
