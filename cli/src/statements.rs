//! `mew query`, `exec`, `load`, `held` and `conflicts`: an application's view of a kernel.

use crate::client::{Kernel, Unready, check_address};
use crate::out::{self, Out};
use crate::table::render;
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use mew_lang::ast::{Statement, StatementKind};
use mew_model::Value;
use mew_sync::shapes::value_from_wire;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Rows of one transaction while loading.
pub const TOGETHER: usize = 500;

#[derive(Args)]
pub struct StatementArgs {
    /// The statement; or use --file
    statement: Option<String>,
    /// Read statements from a file
    #[arg(short, long, conflicts_with = "statement")]
    file: Option<PathBuf>,
    /// Parameter of the statement, as name=value; value is a literal of the language, or else text
    #[arg(short, long = "param")]
    params: Vec<String>,
    /// Address of the kernel's client API
    #[arg(long, env = "MEW_ADDRESS", default_value = "127.0.0.1:9000")]
    address: String,
    /// How rows are shown
    #[arg(short, long, default_value = "table")]
    output: Output,
    /// Wait for a kernel that is not ready, and run the statement again until it returns a row, for so long: 30s, 2m. No write
    /// is run again: one of which the answer is lost fails, and a script that writes before it returns rows is refused
    #[arg(long, value_name = "TIME", value_parser = time)]
    wait: Option<Duration>,
}

/// Between two tries of a statement that returned no row.
const AGAIN: Duration = Duration::from_millis(500);

fn time(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let n: u64 = text[..end].parse().map_err(|_| format!("{text:?} is no time such as 30s or 2m"))?;
    match &text[end..] {
        "s" => Ok(Duration::from_secs(n)),
        "m" => Ok(Duration::from_secs(n.saturating_mul(60))),
        _ => Err(format!("{text:?} is no time such as 30s or 2m")),
    }
}

/// Runs the statement, with `wait` until it returns a row. A kernel that is not ready is waited for, too. A statement that
/// returns nothing runs once, what a kernel refuses is not asked again, and what may have run only if it writes nothing.
async fn execute(a: &StatementArgs, text: &str, params: &BTreeMap<String, Value>) -> Result<mew_wire::ExecuteResponse> {
    let once = async || Kernel::connect(&a.address).await?.execute(text, params).await;
    let Some(wait) = a.wait else { return once().await };
    // No waiting makes it one.
    check_address(&a.address)?;
    ensure!(
        !writes_first(text),
        "with --wait, what this script writes would be written again until its last statement returns a row: run the writes by themselves, and then wait for the row"
    );
    let end = Instant::now() + wait;
    loop {
        let late = match once().await {
            Ok(done) if done.columns.is_empty() || !done.rows.is_empty() => return Ok(done),
            Ok(_) => anyhow!("no row after {} s", wait.as_secs()),
            Err(e) if e.downcast_ref::<Unready>().is_some_and(|u| !u.may_have_run || only_reads(text)) => e,
            Err(e) => return Err(e),
        };
        if Instant::now() >= end {
            return Err(late);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn only_reads(text: &str) -> bool {
    let script = mew_lang::parse_script(text);
    script.is_ok_and(|all| all.iter().all(|s| matches!(s.kind, StatementKind::Query(..))))
}

/// Whether something is written before the statement that returns rows. One that does both at once has changed nothing if it
/// returns none.
fn writes_first(text: &str) -> bool {
    // What is wrong with it the kernel says.
    let Ok(script) = mew_lang::parse_script(text) else { return false };
    let kinds = script.iter().map(|s| &s.kind);
    let mut backwards = kinds.filter(|k| matches!(k, StatementKind::Query(..) | StatementKind::Mutate(..))).rev();
    let last = backwards.next();
    matches!(last, Some(StatementKind::Query(..) | StatementKind::Mutate(_, _, Some(_))))
        && backwards.any(|k| matches!(k, StatementKind::Mutate(..)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Csv,
}

#[derive(Args)]
pub struct LoadArgs {
    /// A CSV file with a header line
    csv: PathBuf,
    /// The statement to run for each row; columns are its parameters
    statement: String,
    /// Columns that are whole numbers
    #[arg(long, value_delimiter = ',')]
    int: Vec<String>,
    /// Columns that are numbers
    #[arg(long, value_delimiter = ',')]
    float: Vec<String>,
    /// Address of the kernel's client API
    #[arg(long, env = "MEW_ADDRESS", default_value = "127.0.0.1:9000")]
    address: String,
}

#[derive(Args)]
pub struct RecordArgs {
    /// Address of the kernel's client API
    #[arg(long, env = "MEW_ADDRESS", default_value = "127.0.0.1:9000")]
    address: String,
    /// How many are shown, 1000 at most
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Print whole records as JSON, one a line
    #[arg(long)]
    json: bool,
}

pub async fn run(a: StatementArgs) -> Result<()> {
    let text = match (&a.statement, &a.file) {
        (Some(s), _) => s.clone(),
        (None, Some(f)) => std::fs::read_to_string(f).with_context(|| f.display().to_string())?,
        (None, None) => bail!("give a statement or --file"),
    };
    let mut params = BTreeMap::new();
    for p in &a.params {
        let (k, v) = p.split_once('=').with_context(|| format!("--param {p:?} is not name=value"))?;
        params.insert(k.to_owned(), literal(v));
    }
    let done = execute(&a, &text, &params).await?;
    let cell = |v: &mew_wire::Value| match value_from_wire(v.clone()) {
        Value::String(s) => s,
        Value::Null => String::new(),
        v => v.to_string(),
    };
    let rows: Vec<Vec<String>> = done.rows.iter().map(|r| r.values.iter().map(cell).collect()).collect();
    if !done.columns.is_empty() {
        match a.output {
            Output::Table => out::line(render(&done.columns, &rows)),
            Output::Csv => {
                let mut w = csv::Writer::from_writer(Out);
                w.write_record(&done.columns)?;
                rows.iter().try_for_each(|r| w.write_record(r))?;
                w.flush()?;
            }
        }
    }
    let s = done.summary.unwrap_or_default();
    let changed: Vec<String> =
        [("spawned", s.spawned), ("set", s.set), ("killed", s.killed), ("linked", s.linked), ("unlinked", s.unlinked)]
            .iter()
            .filter(|(_, n)| *n > 0)
            .map(|(w, n)| format!("{n} {w}"))
            .collect();
    if !changed.is_empty() {
        eprintln!("{}", changed.join(", "));
    }
    Ok(())
}

/// A literal of the language, or else the text itself.
fn literal(text: &str) -> Value {
    let script = format!("MATCH x: any RETURN {text}");
    if let Ok(s) = mew_lang::parse_script(&script)
        && let [Statement { kind: StatementKind::Query(_, r), .. }] = s.as_slice()
        && let [(e, None)] = r.columns.as_slice()
        && let mew_lang::ast::ExprKind::Value(v) = &e.kind
    {
        return v.clone();
    }
    Value::String(text.to_owned())
}

pub async fn load(a: LoadArgs) -> Result<()> {
    let kernel = Kernel::connect(&a.address).await?;
    let started = Instant::now();
    let n = load_csv(&kernel, &a.csv, &a.statement, &a.int, &a.float, true).await?;
    out::line(format_args!("{n} rows in {:.1} s", started.elapsed().as_secs_f32()));
    Ok(())
}

/// Runs the statement for each row, many in one transaction; the first failure names the row.
pub async fn load_csv(
    kernel: &Kernel,
    file: &Path,
    statement: &str,
    int: &[String],
    float: &[String],
    progress: bool,
) -> Result<usize> {
    let mut reader = csv::Reader::from_path(file).with_context(|| file.display().to_string())?;
    let header: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
    for name in int.iter().chain(float) {
        ensure!(header.contains(name), "{} has no column {name}; it has {}", file.display(), header.join(", "));
    }
    let mut rows = Vec::new();
    for (i, record) in reader.records().enumerate() {
        let record = record.with_context(|| format!("{} row {}", file.display(), i + 2))?;
        let mut row = Vec::with_capacity(header.len());
        for (name, text) in header.iter().zip(record.iter()) {
            let bad = |what: &str| anyhow!("{} row {}: {name} is {text:?}, which is no {what}", file.display(), i + 2);
            row.push(if int.contains(name) {
                Value::Int(text.parse().map_err(|_| bad("whole number"))?)
            } else if float.contains(name) {
                Value::Float(text.parse().map_err(|_| bad("number"))?)
            } else {
                Value::String(text.to_owned())
            });
        }
        rows.push(row);
    }
    let total = rows.len();
    let mut bar = Progress::new(progress, &file.file_name().unwrap_or_default().to_string_lossy(), total);
    let mut n = 0;
    for part in rows.chunks(TOGETHER) {
        kernel.execute_rows(statement, &header, part).await.map_err(|e| {
            // Row 0 of the request is the first of this part; people count lines, and the header is the first.
            let text = e.to_string();
            let at = text
                .strip_prefix("row ")
                .and_then(|t| t.split_once(": "))
                .and_then(|(i, why)| Some((i.parse::<usize>().ok()?, why)));
            match at {
                Some((i, why)) => anyhow!("{} row {}: {why}", file.display(), n + i + 2),
                None => anyhow!("{}: {text}", file.display()),
            }
        })?;
        n += part.len();
        bar.at(n);
    }
    bar.end();
    Ok(total)
}

/// A line that is rewritten at most a few times a second on a terminal, and written once elsewhere.
pub struct Progress {
    what: String,
    total: usize,
    next: Instant,
    live: bool,
}

impl Progress {
    pub fn new(on: bool, what: &str, total: usize) -> Self {
        Progress { what: what.to_owned(), total, next: Instant::now(), live: on && std::io::stderr().is_terminal() }
    }

    pub fn at(&mut self, n: usize) {
        if self.live && Instant::now() >= self.next {
            self.next = Instant::now() + Duration::from_millis(100);
            let done = n * 30 / self.total.max(1);
            eprint!("\r  {:<16} [{}{}] {n}/{}", self.what, "=".repeat(done), " ".repeat(30 - done.min(30)), self.total);
            let _ = std::io::stderr().flush();
        }
    }

    pub fn end(self) {
        if self.live {
            eprint!("\r{:80}\r", "");
            let _ = std::io::stderr().flush();
        }
    }
}

pub async fn records(kind: &str, a: RecordArgs) -> Result<()> {
    let r = Kernel::connect(&a.address).await?.records(kind, a.limit).await?;
    if a.json {
        r.json.iter().for_each(out::line);
        return Ok(());
    }
    let all: Vec<serde_json::Value> = r.json.iter().map(|j| serde_json::from_str(j)).collect::<Result<_, _>>()?;
    let f = |v: &serde_json::Value, p: &str| v.pointer(p).and_then(|v| v.as_str()).unwrap_or("").to_owned();
    let (header, paths): (Vec<&str>, Vec<&str>) = if kind == "held" {
        (
            vec!["SYNC-ID", "TYPE", "REASON", "WAITS-FOR", "SINCE", "MESSAGE"],
            vec!["/syncId", "/entity/type", "/reason", "/waitsFor", "/since", "/message"],
        )
    } else {
        (
            vec!["SYNC-ID", "TYPE", "REMOTE", "RESOLUTION", "BY", "AT"],
            vec!["/syncId", "/type", "/remote", "/resolution", "/by", "/at"],
        )
    };
    if all.is_empty() {
        eprintln!("None.");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = all.iter().map(|v| paths.iter().map(|p| f(v, p)).collect()).collect();
    out::line(render(&header.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>(), &rows));
    if r.total > rows.len() as u64 {
        eprintln!("{} more; use --limit", r.total - rows.len() as u64);
    }
    Ok(())
}
