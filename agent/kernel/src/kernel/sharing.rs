//! Commits that writers share, on a disk whose syncs are let through one by one: N writers cost two syncs, and none of them
//! hears of a commit that a power loss could still take.

use super::{Kernel, lock};
use crate::names::Params;
use mew_lang::parse_ontology;
use mew_model::Value;
use mew_store::{Disk, DiskOp, Hook, Hooked, MemDisk, Options, Store};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const NOW_MS: u64 = 1_700_000_000_000;
/// Far more than there are syncs, and fewer than one commit takes.
const WRITERS: i64 = 64;
/// A sync that was not begun by then never will be.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Syncs {
    /// Syncs go through at once until the test begins to count.
    counted: bool,
    begun: usize,
    /// So many may go on; the others wait.
    allowed: usize,
}

/// Holds up the syncs of a disk's files until they are allowed.
#[derive(Default)]
struct Gate {
    syncs: Mutex<Syncs>,
    changed: Condvar,
}

impl Gate {
    fn count_from_now(&self) {
        lock(&self.syncs).counted = true;
    }

    fn allow(&self, syncs: usize) {
        lock(&self.syncs).allowed = syncs;
        self.changed.notify_all();
    }

    /// For want of a sync it goes on as well, so that the test says what is wrong instead of waiting for ever.
    fn wait_until_begun(&self, n: usize) {
        let waits = self.changed.wait_timeout_while(lock(&self.syncs), PATIENCE, |s| s.begun < n);
        drop(waits.unwrap_or_else(PoisonError::into_inner));
    }

    fn begun(&self) -> usize {
        lock(&self.syncs).begun
    }
}

impl Hook for Gate {
    fn before(&self, op: DiskOp<'_>) -> io::Result<()> {
        if op != DiskOp::Sync {
            return Ok(());
        }
        let mut s = lock(&self.syncs);
        if s.counted {
            s.begun += 1;
            let mine = s.begun;
            self.changed.notify_all();
            let waits = self.changed.wait_while(s, |s| s.allowed < mine);
            drop(waits.unwrap_or_else(PoisonError::into_inner));
        }
        Ok(())
    }
}

/// The numbers that are there after a power loss now: of what is not synced, nothing stays.
fn after_power_loss(disk: &MemDisk) -> BTreeSet<i64> {
    let copy = disk.copy();
    copy.crash(0);
    let k = kernel(Arc::new(copy));
    let rows = k.execute(NOW_MS, "MATCH t: Task RETURN t.n", &Params::new()).expect("a query").rows;
    let number = |row: Vec<Value>| match row.as_slice() {
        [Value::Int(n)] => *n,
        other => panic!("a task's number: {other:?}"),
    };
    rows.into_iter().map(number).collect()
}

fn kernel(disk: Arc<dyn Disk>) -> Kernel {
    let o = parse_ontology("ontology T { node Task { n: Int [required] } }").expect("the ontology is right");
    // One segment is enough: beginning another one syncs as well.
    let options = Options { kernel_id: "k".into(), new_incarnation: "i".into(), segment_bytes: 64 << 20 };
    Kernel::new(Store::open(disk, Arc::new(o), options).expect("the store opens").0)
}

#[test]
fn writers_that_wait_together_share_one_sync_and_are_answered_after_it() {
    let gated = Hooked::<MemDisk, Gate>::default();
    let k = &kernel(Arc::new(gated.clone()));
    let (disk, gate) = (&gated.disk, &gated.hook);
    gate.count_from_now();
    let answered = &Mutex::new(BTreeSet::new());
    // What a writer was told is asked of the disk at once, not when all is over.
    let write = |n: i64| {
        let text = format!("SPAWN Task {{n = {n}}}");
        let done = k.execute(NOW_MS, &text, &Params::new()).map(|out| out.summary.spawned).map_err(|e| e.to_string());
        let is_durable = after_power_loss(disk).contains(&n);
        lock(answered).insert(n);
        (n, done, is_durable)
    };
    let durable = || after_power_loss(disk).into_iter().collect::<Vec<_>>();
    thread::scope(|scope| {
        let first = scope.spawn(move || write(0));
        gate.wait_until_begun(1);
        let others: Vec<_> = (1..WRITERS).map(|n| scope.spawn(move || write(n))).collect();
        while lock(&k.queue).jobs.len() + 1 < WRITERS as usize {
            thread::yield_now();
        }
        let (early, on_disk, begun) = (lock(answered).clone(), durable(), gate.begun());
        // What is wrong is told only when nobody waits any more: a panic here would wait for those who wait for it.
        gate.allow(1);
        let of_first = first.join();
        gate.wait_until_begun(2);
        let (half, half_on_disk) = (lock(answered).clone(), durable());
        gate.allow(usize::MAX);
        let of_others: Vec<_> = others.into_iter().map(|t| t.join()).collect();

        assert!(early.is_empty() && on_disk.is_empty(), "the first sync had not ended: {early:?}, {on_disk:?}");
        assert_eq!(begun, 1, "nobody else syncs meanwhile");
        assert_eq!(half, BTreeSet::from([0]), "the second sync had not ended");
        assert_eq!(half_on_disk, [0]);
        for done in [of_first].into_iter().chain(of_others) {
            let (n, done, is_durable) = done.expect("a writer does not panic");
            assert_eq!(done, Ok(1), "writer {n}");
            assert!(is_durable, "writer {n} was told of a commit that a power loss takes");
        }
    });
    assert_eq!(gate.begun(), 2, "one sync for the first writer, and one for all the others");
    assert_eq!(durable(), (0..WRITERS).collect::<Vec<_>>());
    assert_eq!(k.head(), WRITERS as u64, "each of them wrote one entity");
}
