//! The figures of all runs: tables for people, JSON for comparison over time, and which marks are met.

use crate::machine::Machine;
use crate::marks::{MARKS, Mark, Of};
use crate::measure::load_average;
use crate::race::{Figures, Plan};
use anyhow::Result;
use comfy_table::{Table, presets::NOTHING};
use mew_tests::process::progress;
use serde::Serialize;
use serde_json::json;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Parts that have no peer.
const ALONE: [&str; 4] = ["store", "peers", "soak", "operator"];

/// Load average at the end of each phase, by its name.
pub type Loads = BTreeMap<String, f64>;

/// Says what goes on, and notes how busy the machine was.
pub struct Phases {
    run: usize,
    who: &'static str,
    part: String,
    seen: RefCell<(Option<String>, Loads)>,
}

impl Phases {
    /// Of one part of what `who` does in a run.
    pub fn new(run: usize, who: &'static str, part: &str) -> Self {
        let before = Loads::from([(format!("{part}: before"), load_average())]);
        Phases { run, who, part: part.to_owned(), seen: RefCell::new((None, before)) }
    }

    /// The phase before this one has ended.
    pub fn begin(&self, what: &str) {
        progress(&format!("[{}] {}: {what} …", self.run, self.who));
        let mut seen = self.seen.borrow_mut();
        let (phase, loads) = &mut *seen;
        if let Some(ended) = phase.replace(format!("{}: {what}", self.part)) {
            loads.insert(ended, load_average());
        }
    }

    fn end(self) -> Loads {
        let (phase, mut loads) = self.seen.into_inner();
        loads.extend(phase.map(|ended| (ended, load_average())));
        loads
    }
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    figures: Figures,
    load_averages: Loads,
}

pub struct Report {
    plan: Plan,
    machine: Machine,
    pub peer_version: String,
    runs: BTreeMap<&'static str, Vec<Run>>,
}

impl Report {
    pub fn new(plan: Plan, machine: Machine) -> Self {
        Report { plan, machine, peer_version: String::new(), runs: BTreeMap::new() }
    }

    /// The figures of a run; those of one run may come in parts.
    pub fn add(&mut self, phases: Phases, f: Figures) {
        let runs = self.runs.entry(phases.who).or_default();
        if runs.len() < phases.run {
            runs.resize_with(phases.run, Run::default);
        }
        let run = &mut runs[phases.run - 1];
        run.figures.extend(f);
        run.load_averages.extend(phases.end());
    }

    fn median(&self, who: &str, what: &str) -> Option<f64> {
        let mut all: Vec<f64> = self.runs.get(who)?.iter().filter_map(|r| r.figures.get(what).copied()).collect();
        all.sort_by(f64::total_cmp);
        let (below, above) = (all.get(all.len().checked_sub(1)? / 2)?, all.get(all.len() / 2)?);
        Some((below + above) / 2.0)
    }

    fn names(&self, who: &str) -> Vec<String> {
        self.runs.get(who).and_then(|r| r.first()).map(|r| r.figures.keys().cloned().collect()).unwrap_or_default()
    }

    pub fn table(&self) -> String {
        let mut t = table(&["", "MEW", "POSTGRESQL", "BETTER BY"]);
        for name in self.names("mew") {
            let (ours, theirs) = (self.median("mew", &name), self.median("postgres", &name));
            t.add_row([name.clone(), cell(ours), cell(theirs), ratio(&name, ours, theirs)]);
        }
        for part in ALONE {
            for name in self.names(part) {
                let found = cell(self.median(part, &name));
                t.add_row([format!("{part}: {name}"), found, String::new(), String::new()]);
            }
        }
        let n = self.runs.values().map(Vec::len).max().unwrap_or(0);
        let head = format!(
            "{} entities, half match; medians of {n} run{}; {}\n{}; load average {}",
            self.plan.entities,
            if n == 1 { "" } else { "s" },
            if self.peer_version.is_empty() { "no peer" } else { &self.peer_version },
            self.machine,
            self.busy(),
        );
        [head, lines(&t), self.marks_table()].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join("\n\n")
    }

    /// The least and the most of all phases.
    fn busy(&self) -> String {
        let all: Vec<f64> = self.runs.values().flatten().flat_map(|r| r.load_averages.values().copied()).collect();
        let least = all.iter().copied().fold(f64::INFINITY, f64::min);
        let most = all.iter().copied().fold(0.0, f64::max);
        if all.is_empty() { "unknown".to_owned() } else { format!("{least:.1} to {most:.1}") }
    }

    /// Marks of which the figures are there, and what was found.
    fn marks(&self) -> Vec<(&'static Mark, f64)> {
        let found = |m: &Mark| match m.of {
            Of::Peer => {
                let theirs = self.median("postgres", m.figure).filter(|v| *v > 0.0)?;
                Some(self.median("mew", m.figure)? / theirs)
            }
            Of::Part(part) => self.median(part, m.figure),
        };
        let due = MARKS.iter().filter(|m| self.plan.entities >= m.entities);
        due.filter_map(|m| Some((m, found(m)?))).collect()
    }

    fn marks_table(&self) -> String {
        let marks = self.marks();
        if marks.is_empty() {
            return String::new();
        }
        let mut t = table(&["MARK", "FOUND", "PASS", "AIM", "MET"]);
        for (m, found) in marks {
            let (name, unit) = match m.of {
                Of::Peer => (format!("{}, MEW by PostgreSQL", m.figure), "x"),
                Of::Part(part) => (format!("{part}: {}", m.figure), ""),
            };
            let aim = m.aim.map_or(String::new(), |a| m.text(a));
            t.add_row([name, number(found) + unit, m.text(m.pass), aim, m.verdict(found).to_owned()]);
        }
        lines(&t)
    }

    pub fn json(&self) -> Result<String> {
        let marks: Vec<_> = self
            .marks()
            .into_iter()
            .map(|(m, found)| {
                let by_peer = m.of == Of::Peer;
                json!({"figure": m.figure, "byPeer": by_peer, "found": found, "pass": m.pass, "aim": m.aim,
                       "met": m.verdict(found)})
            })
            .collect();
        let all = json!({"plan": self.plan, "machine": self.machine, "peer": self.peer_version, "runs": self.runs,
                         "marks": marks});
        Ok(serde_json::to_string_pretty(&all)? + "\n")
    }
}

fn table(head: &[&str]) -> Table {
    let mut t = Table::new();
    t.load_style(NOTHING);
    t.set_header(head.to_vec());
    t
}

fn lines(t: &Table) -> String {
    t.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn cell(v: Option<f64>) -> String {
    v.map_or("-".to_owned(), number)
}

fn number(v: f64) -> String {
    match v.abs() {
        x if x >= 1000.0 => format!("{v:.0}"),
        x if x >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.2}"),
    }
}

/// More is better for rates, less for everything else. An achieved rate is given, not won.
fn ratio(name: &str, ours: Option<f64>, theirs: Option<f64>) -> String {
    let (Some(a), Some(b)) = (ours, theirs) else { return String::new() };
    if name.contains("achieved") {
        return String::new();
    }
    let r = if name.ends_with("/s") { a / b } else { b / a };
    format!("{r:.2}x")
}
