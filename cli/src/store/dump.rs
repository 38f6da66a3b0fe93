//! `mew store dump`: the records of a log as JSON, one a line.

use crate::out::Out;
use anyhow::{Context, Result};
use clap::Args;
use mew_agent::offline::log_of;
use mew_lang::{parse_ontology, render};
use mew_model::{EntityRef, KernelKey, Ontology};
use mew_net::json::entity_json;
use mew_store::ReadOnlyDir;
use mew_store::inspect::{Content, Whole, salvage};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub struct DumpArgs {
    /// Data directory
    #[arg(long, env = "MEW_DATA")]
    data: PathBuf,
    /// Every record that can be read, not only the newest of each
    #[arg(long)]
    all: bool,
    /// An ontology to name types and attributes by; without it they are numbers
    #[arg(long)]
    ontology: Option<PathBuf>,
}

/// What is damaged is told on standard error, and by the exit code.
pub fn run(a: &DumpArgs) -> Result<ExitCode> {
    let o = a.ontology.as_deref().map(ontology).transpose()?.unwrap_or_default();
    let disk = ReadOnlyDir::new(log_of(&a.data)?);
    let mut newest = Newest::default();
    if !a.all {
        salvage(&disk, |w| newest.see(w.content))?;
    }
    let mut to = BufWriter::new(Out);
    let mut failed = None;
    let mut n = 0;
    let r = salvage(&disk, |w| {
        let wanted = a.all || newest.is(w.content, n);
        n += 1;
        if wanted && failed.is_none() {
            failed = print(&mut to, &w, &o).err();
        }
    })?;
    failed.map_or(Ok(()), Err).and_then(|()| to.flush()).context("nothing can be printed")?;
    for d in r.damages.iter().chain(&r.torn) {
        eprintln!("left out: {d}");
    }
    Ok(if r.damages.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ontology(path: &Path) -> Result<Ontology> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    parse_ontology(&text).map_err(|d| anyhow::anyhow!("{}", render(&path.display().to_string(), &text, &d, false)))
}

/// Which record, counted from the beginning of the log, is the newest of each entity and of each fact.
#[derive(Default)]
struct Newest {
    records: u64,
    entities: HashMap<u32, u64>,
    facts: HashMap<Vec<u8>, u64>,
}

impl Newest {
    fn see(&mut self, c: Content<'_>) {
        match c {
            Content::Entity { ent, .. } => self.entities.insert(ent, self.records),
            Content::Fact { key, value: [] } => self.facts.remove(key),
            Content::Fact { key, .. } => self.facts.insert(key.to_vec(), self.records),
        };
        self.records += 1;
    }

    fn is(&self, c: Content<'_>, n: u64) -> bool {
        let newest = match c {
            Content::Entity { ent, .. } => self.entities.get(&ent),
            Content::Fact { key, .. } => self.facts.get(key),
        };
        newest == Some(&n)
    }
}

fn print(to: &mut impl Write, w: &Whole<'_>, o: &Ontology) -> io::Result<()> {
    let mut line = match w.content {
        Content::Entity { ent, seq, origin, bytes } => {
            let mut j = entity_json(o, bytes);
            let writer = EntityRef::read(bytes).ok().map(|e| kernel(e.kernel));
            j["entity"] = json!(ent);
            j["seq"] = json!(seq);
            j["writer"] = json!(writer);
            j["origin"] = json!((origin != KernelKey(0)).then(|| kernel(origin)));
            j
        }
        Content::Fact { key, value } => json!({"fact": text(key), "value": text(value)}),
    };
    line["at"] = json!(format!("{}:{}", w.file, w.offset));
    writeln!(to, "{line}")
}

/// The key that versions name a kernel by.
fn kernel(k: KernelKey) -> String {
    format!("{:#018x}", k.0)
}

/// Text as it is, anything else as an object with its bytes in hex.
fn text(b: &[u8]) -> Value {
    match std::str::from_utf8(b) {
        Ok(t) => json!(t),
        Err(_) => json!({"hex": b.iter().map(|b| format!("{b:02x}")).collect::<String>()}),
    }
}
