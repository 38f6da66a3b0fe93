//! Side by side with PostgreSQL's logical replication, on the same machine, in the same run: initial copy, steady stream,
//! lag and catch-up of two agents over mTLS; then what operator and agent cost, and how soon they say what is.
//!
//! Prints a table, and with `--json` writes every figure of every run. Asserts nothing about time.

mod measure;
mod operator;
mod ours;
mod postgres;
mod race;
mod report;
mod rows;
mod transactions;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use mew_tests::process::progress;
use race::{Figures, Plan, Runner};
use std::path::{Path, PathBuf};

#[derive(Parser)]
#[command(about = "Measures MEW Federation beside PostgreSQL's logical replication")]
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
    /// Only one part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Write all figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
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
    /// Memory of operator and agents, apply to Ready, faults
    Operator,
}

fn main() -> Result<()> {
    let a = Args::parse();
    let plan = Plan { entities: a.entities, steady_seconds: a.steady, lag_seconds: a.lag, catch_up: a.catch_up };
    let wants = |parts: &[Part]| a.only.is_none_or(|o| parts.contains(&o));
    let mut r = report::Report::new(plan);
    for run in 1..=a.runs {
        if wants(&[Part::Race, Part::Ours]) {
            let f = racing("mew", run, &plan, |dir| Ok(Box::new(ours::Ours::start(dir)?)))?;
            r.add(run, "mew", f);
        }
        if wants(&[Part::Race]) {
            let bin = postgres::programs()?;
            r.peer_version = postgres::version(&bin)?;
            let f = racing("postgres", run, &plan, |dir| Ok(Box::new(postgres::Postgres::start(&bin, dir)?)))?;
            r.add(run, "postgres", f);
        }
        if wants(&[Part::Transactions, Part::OurTransactions]) && a.transactions > 0 {
            let (dir, who) = (directory(&format!("transactions-{run}"))?, "mew");
            let f = transactions::ours(&dir, a.entities, a.transactions, &saying(run, who))?;
            r.add(run, who, f);
            std::fs::remove_dir_all(&dir)?;
        }
        if wants(&[Part::Transactions]) && a.transactions > 0 {
            let (bin, who) = (postgres::programs()?, "postgres");
            r.peer_version = postgres::version(&bin)?;
            let dir = directory(&format!("transactions-postgres-{run}"))?;
            let f = transactions::theirs(&bin, &dir, a.entities, a.transactions, &saying(run, who))?;
            r.add(run, who, f);
            std::fs::remove_dir_all(&dir)?;
        }
        if wants(&[Part::Operator]) {
            let dir = directory(&format!("operator-{run}"))?;
            let f = operator::run(&dir, &|what| progress(&format!("[{run}] operator: {what} …")))?;
            r.add(run, "operator", f);
        }
    }
    println!("{}", r.table());
    if let Some(file) = a.json {
        std::fs::write(&file, r.json()?).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn saying(run: usize, who: &str) -> impl Fn(&str) {
    move |what| progress(&format!("[{run}] {who}: {what} …"))
}

fn racing(who: &str, run: usize, plan: &Plan, start: impl FnOnce(&Path) -> Result<Box<dyn Runner>>) -> Result<Figures> {
    let dir = directory(&format!("{who}-{run}"))?;
    let mut runner = start(&dir)?;
    let f = race::run(&mut *runner, plan, &|what| progress(&format!("[{run}] {who}: {what} …")))
        .with_context(|| format!("{who}; its logs are in {}", dir.display()))?;
    drop(runner);
    // Some hundred MB a run; the logs of a failed one stay.
    std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(f)
}

fn directory(name: &str) -> Result<PathBuf> {
    mew_tests::dirs::scratch(name)
}
