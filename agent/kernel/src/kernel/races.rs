//! Rules of the ontology when many write at once: whoever comes first has it, all others are told why not, and the indexes
//! are those that are rebuilt from the log. The orders in which writers come are the scheduler's, so each race is run often.

use super::Kernel;
use crate::names::Params;
use crate::rows::Summary;
use mew_lang::parse_ontology;
use mew_model::Value;
use mew_store::{MemDisk, Options, Store};
use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::thread;

const NOW_MS: u64 = 1_700_000_000_000;
const RACERS: usize = 8;
const ROUNDS: usize = 150;
const ONTOLOGY: &str = "ontology T {
  node Item { by: Int [required], own: Bool [required], sku: String? [unique] }
  node N { name: String [required] }
  edge needs(user: N, used: N) [on_kill_target: prevent]
  edge owns(owner: N, thing: N) [on_kill_source: cascade]
}";

type Answer = Result<Summary, String>;

fn kernel(disk: &MemDisk) -> Kernel {
    let o = parse_ontology(ONTOLOGY).expect("the ontology is right");
    let options = Options { kernel_id: "k".into(), new_incarnation: "i".into(), segment_bytes: 1 << 20 };
    Kernel::new(Store::open(Arc::new(disk.clone()), Arc::new(o), options).expect("the store opens").0)
}

fn run(k: &Kernel, text: &str) -> Answer {
    k.execute(NOW_MS, text, &Params::new()).map(|out| out.summary).map_err(|e| e.to_string())
}

fn rows(k: &Kernel, text: &str) -> Vec<Vec<Value>> {
    k.execute(NOW_MS, text, &Params::new()).unwrap_or_else(|e| panic!("{text}: {e}")).rows
}

fn count(k: &Kernel, pattern: &str) -> i64 {
    let found = rows(k, &format!("MATCH {pattern} RETURN COUNT(*)"));
    match found.concat()[..] {
        [Value::Int(n)] => n,
        _ => panic!("{pattern}: {found:?}"),
    }
}

/// All statements at once; what each was answered.
fn race(k: &Kernel, statement: impl Fn(usize) -> String) -> Vec<Answer> {
    let start = &Barrier::new(RACERS);
    thread::scope(|scope| {
        let racers: Vec<_> = (0..RACERS)
            .map(|n| {
                let text = statement(n);
                scope.spawn(move || {
                    start.wait();
                    run(k, &text)
                })
            })
            .collect();
        racers.into_iter().map(|r| r.join().expect("no statement panics")).collect()
    })
}

fn is_refused(a: &Answer, why: &str) -> bool {
    matches!(a, Err(e) if e.contains(why))
}

/// What commits have maintained is what a replay of the log makes, and the indexes hold what the entities say.
fn rebuilds_the_same(k: &Kernel, disk: &MemDisk) {
    let dump = |k: &Kernel, which: &str| {
        let mut out: Vec<u8> = Vec::new();
        k.store.canonical(&mut out).unwrap_or_else(|e| panic!("{which}: {e}"));
        out
    };
    assert!(dump(k, "as it is") == dump(&kernel(&disk.copy()), "opened again"), "the replayed log says otherwise");
}

/// Half of the rounds make an entity with the value, the others move it to one that is there and may have had another.
#[test]
fn of_those_who_race_for_a_unique_value_one_has_it() {
    let disk = MemDisk::new();
    let k = &kernel(&disk);
    for n in 0..RACERS {
        run(k, &format!("SPAWN Item {{by = {n}, own = true}}")).expect("nobody has anything yet");
    }
    let mut holders: BTreeMap<String, (usize, bool)> = BTreeMap::new();
    let values: Vec<String> = (0..ROUNDS).map(|round| format!("sku {round:04}")).collect();
    for (round, value) in values.iter().enumerate() {
        let moves = round % 2 == 1;
        let answers = race(k, |n| match moves {
            false => format!("SPAWN Item {{by = {n}, own = false, sku = \"{value}\"}}"),
            true => format!("MATCH i: Item WHERE i.by = {n} AND i.own = true SET i.sku = \"{value}\""),
        });
        let won: Vec<usize> = (0..RACERS).filter(|n| answers[*n].is_ok()).collect();
        let [winner] = won[..] else { panic!("round {round}: {answers:?}") };
        let done = answers[winner].as_ref().map(|s| (s.spawned, s.set));
        assert_eq!(done, Ok(if moves { (0, 1) } else { (1, 0) }), "round {round}");
        let refused = answers.iter().filter(|a| is_refused(a, "attribute sku is unique and")).count();
        assert_eq!(refused, RACERS - 1, "round {round}: {answers:?}");
        // What it had before is free.
        holders.retain(|_, holder| !moves || *holder != (winner, true));
        holders.insert(value.clone(), (winner, moves));
    }
    let row = |(by, own): &(usize, bool)| vec![Value::Int(*by as i64), Value::Bool(*own)];
    for value in &values {
        let found = rows(k, &format!("MATCH i: Item WHERE i.sku = \"{value}\" RETURN i.by, i.own"));
        assert_eq!(found, holders.get(value).map(row).into_iter().collect::<Vec<_>>(), "{value} by its index");
    }
    let all = rows(k, "MATCH i: Item WHERE i.sku IS NOT NULL RETURN i.sku, i.by, i.own ORDER BY i.sku");
    let held = |(value, holder): (&String, &(usize, bool))| [vec![Value::String(value.clone())], row(holder)].concat();
    assert_eq!(all, holders.iter().map(held).collect::<Vec<_>>());
    rebuilds_the_same(k, &disk);
}

/// Either it is killed, and nobody can link to it any more, or it is linked to, and nobody can kill it.
#[test]
fn what_is_needed_lives_and_what_is_killed_is_not_needed() {
    let disk = MemDisk::new();
    let k = &kernel(&disk);
    for n in 0..RACERS {
        run(k, &format!("SPAWN N {{_sync_id = \"user{n}\", name = \"user\"}}")).expect("a node");
    }
    let (mut linked, mut living) = (0, 0);
    for round in 0..ROUNDS {
        run(k, &format!("SPAWN N {{_sync_id = \"used{round}\", name = \"used\"}}")).expect("a node");
        let answers = race(k, |n| match n % 2 {
            0 => format!("LINK needs(#user{n}, #used{round})"),
            _ => format!("KILL #used{round}"),
        });
        let (links, kills): (Vec<_>, Vec<_>) = answers.iter().enumerate().partition(|(n, _)| n % 2 == 0);
        let killed = kills.iter().filter(|(_, a)| a.is_ok()).count();
        let is_right = match killed {
            0 => links.iter().all(|(_, a)| a.is_ok()) && kills.iter().all(|(_, a)| is_refused(a, "prevents")),
            1 => {
                let late = links.iter().chain(&kills).filter(|(_, a)| is_refused(a, "not found")).count();
                late == RACERS - 1
            }
            _ => false,
        };
        assert!(is_right, "round {round}: {answers:?}");
        if killed == 0 {
            linked += links.len() as i64;
            living += 1;
        }
    }
    assert_eq!(count(k, "needs(_, _) AS e"), linked);
    assert_eq!(count(k, "x: N, y: N, needs(x, y)"), linked, "each edge has both its ends");
    assert_eq!(count(k, "x: N"), living + RACERS as i64);
    rebuilds_the_same(k, &disk);
}

/// Whoever linked to the owner before it died goes with it; whoever came later is told that it is gone, and stays.
#[test]
fn a_cascade_takes_whoever_came_before_it_and_nobody_else() {
    let disk = MemDisk::new();
    let k = &kernel(&disk);
    for round in 0..ROUNDS {
        run(k, &format!("SPAWN N {{_sync_id = \"owner{round}\", name = \"owner\"}}")).expect("a node");
        let thing = |n: usize| format!("thing{round}x{n}");
        for n in (0..RACERS).step_by(2) {
            run(k, &format!("SPAWN N {{_sync_id = \"{0}\", name = \"{0}\"}}", thing(n))).expect("a node");
        }
        let answers = race(k, |n| match n % 2 {
            0 => format!("LINK owns(#owner{round}, #{})", thing(n)),
            _ => format!("KILL #owner{round}"),
        });
        let (links, kills): (Vec<_>, Vec<_>) = answers.iter().enumerate().partition(|(n, _)| n % 2 == 0);
        let killed = kills.iter().filter(|(_, a)| a.is_ok()).count();
        let late = kills.iter().filter(|(_, a)| is_refused(a, "not found")).count();
        assert_eq!((killed, late), (1, kills.len() - 1), "round {round}: {answers:?}");
        for (n, a) in links {
            let lives = count(k, &format!("x: N WHERE x.name = \"{}\"", thing(n))) == 1;
            let is_right = if lives { is_refused(a, "not found") } else { a.is_ok() };
            assert!(is_right, "round {round}: thing {n} lives: {lives}, and its link was answered {a:?}");
        }
    }
    assert_eq!(count(k, "owns(_, _) AS e"), 0);
    assert_eq!(count(k, "x: N WHERE x.name = \"owner\""), 0);
    rebuilds_the_same(k, &disk);
}
