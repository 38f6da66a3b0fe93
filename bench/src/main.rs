//! Side by side with PostgreSQL's logical replication, on the same machine, in the same run: initial copy, steady stream,
//! lag and catch-up of two agents over mTLS, and durable transactions; and what has no peer: the store by itself, local
//! writes beside peers of all kinds, a soak, and what the operator costs. README.md says what each part measures.
//!
//! Prints a table and the marks, and with `--json` writes every figure of every run. Asserts nothing about time.

mod embedded;
mod kept;
mod machine;
mod marks;
mod measure;
mod operator;
mod ours;
mod peers;
mod postgres;
mod race;
mod report;
mod rows;
mod soak;
mod store;
mod transactions;
mod worker;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use machine::Machine;
use race::{Figures, Plan};
use report::{Phases, Report};
use std::path::{Path, PathBuf};

#[derive(Parser)]
#[command(about = "Measures MEW Federation, beside PostgreSQL where that does the same")]
struct Args {
    /// Entities at the source; half of them match
    #[arg(long, default_value_t = 200_000)]
    entities: u64,
    /// How often everything is repeated, both sides in turn; the medians count
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Seconds of each steady phase; 0 leaves them out
    #[arg(long, default_value_t = 5)]
    steady: u64,
    /// Seconds of each lag phase; 0 leaves them out
    #[arg(long, default_value_t = 4)]
    lag: u64,
    /// Changes while the sink is away; 0 leaves this out
    #[arg(long, default_value_t = 100_000)]
    catch_up: u64,
    /// Seconds of each of the twelve transaction phases; 0 leaves them out
    #[arg(long, default_value_t = 2)]
    transactions: u64,
    /// Seconds of the soak, of each phase of `peers`, and of commits without upkeep in `store`
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Numbers of Syncs that `--only operator` declares, one after the other
    #[arg(long, value_delimiter = ',', default_values_t = [10_usize, 1000, 10_000])]
    syncs: Vec<usize>,
    /// Only one part; without it `race`, `transactions` and the small half of `operator`
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Write all figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// What this process is to do for another one of this program
    #[arg(long, hide = true)]
    worker: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The race, both sides
    Race,
    /// The race, without PostgreSQL
    Ours,
    /// Durable transactions by 1, 16 and 64 clients, both sides
    Transactions,
    /// The same, without PostgreSQL
    OurTransactions,
    /// Memory of operator and agents, apply to Ready, faults; thousands of Syncs, and the loss of a region
    Operator,
    /// The store: memory, opening after kill -9, disk, commits during checkpoints and compaction
    Store,
    /// Local writes while a peer is live, slow, stopped, dead or catching up
    Peers,
    /// Changes for as long as --seconds says, with upkeep: memory, disk, and everything checked after kill -9
    Soak,
}

fn main() -> Result<()> {
    let a = Args::parse();
    match &a.worker {
        Some(work) => worker::run(work),
        None => measure(&a),
    }
}

fn measure(a: &Args) -> Result<()> {
    let plan = Plan {
        entities: a.entities,
        steady_seconds: a.steady,
        lag_seconds: a.lag,
        catch_up: a.catch_up,
        seconds: a.seconds,
    };
    let wants = |parts: &[Part]| a.only.is_none_or(|o| parts.contains(&o));
    let asked = |part: Part| a.only == Some(part);
    let machine = in_directory("machine", Machine::look)?;
    let mut r = Report::new(plan, machine);
    for run in 1..=a.runs {
        if wants(&[Part::Race, Part::Ours]) {
            part(&mut r, run, "mew", "race", |dir, say| race::run(&mut ours::Ours::start(dir)?, &plan, say))?;
        }
        if wants(&[Part::Race]) {
            let bin = postgres::programs()?;
            r.peer_version = postgres::version(&bin)?;
            part(&mut r, run, "postgres", "race-postgres", |dir, say| {
                race::run(&mut postgres::Postgres::start(&bin, dir)?, &plan, say)
            })?;
        }
        if wants(&[Part::Transactions, Part::OurTransactions]) && a.transactions > 0 {
            part(&mut r, run, "mew", "transactions", |dir, say| {
                transactions::ours(dir, a.entities, a.transactions, say)
            })?;
        }
        if wants(&[Part::Transactions]) && a.transactions > 0 {
            let bin = postgres::programs()?;
            r.peer_version = postgres::version(&bin)?;
            part(&mut r, run, "postgres", "transactions-postgres", |dir, say| {
                transactions::theirs(&bin, dir, a.entities, a.transactions, say)
            })?;
        }
        if asked(Part::Store) {
            part(&mut r, run, "store", "store", |dir, say| store::run(dir, a.entities, a.seconds, say))?;
        }
        if asked(Part::Peers) {
            part(&mut r, run, "peers", "peers", |dir, say| peers::run(dir, a.entities, a.seconds, say))?;
        }
        if asked(Part::Soak) {
            part(&mut r, run, "soak", "soak", |dir, say| soak::run(dir, a.entities, a.seconds, say))?;
        }
        if wants(&[Part::Operator]) {
            part(&mut r, run, "operator", "operator", |dir, say| operator::pair::run(dir, run, say))?;
        }
        if asked(Part::Operator) {
            part(&mut r, run, "operator", "fleet", |_, say| operator::fleet(run, &a.syncs, say))?;
        }
    }
    println!("{}", r.table());
    if let Some(file) = &a.json {
        std::fs::write(file, r.json()?).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// One part of one run, in a directory of its own.
fn part(
    r: &mut Report,
    run: usize,
    who: &'static str,
    name: &str,
    measure: impl FnOnce(&Path, &dyn Fn(&str)) -> Result<Figures>,
) -> Result<()> {
    let phases = Phases::new(run, who, name);
    let f = in_directory(&format!("{name}-{run}"), |dir| measure(dir, &|what| phases.begin(what)))?;
    r.add(phases, f);
    Ok(())
}

/// Up to some GiB go with it; those of something that failed stay, for their logs.
fn in_directory<T>(name: &str, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let dir = mew_tests::dirs::scratch(name)?;
    let done = work(&dir).with_context(|| format!("{name}; its logs are in {}", dir.display()))?;
    std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(done)
}
