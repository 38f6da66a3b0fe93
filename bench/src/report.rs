//! The figures of all runs as a table for people and JSON for comparison over time.

use crate::measure::load_average;
use crate::race::{Figures, Plan};
use anyhow::Result;
use comfy_table::{Table, presets::NOTHING};
use serde_json::json;
use std::collections::BTreeMap;

pub struct Report {
    plan: Plan,
    pub peer_version: String,
    runs: BTreeMap<&'static str, Vec<(Figures, f64)>>,
}

impl Report {
    pub fn new(plan: Plan) -> Self {
        Report { plan, peer_version: String::new(), runs: BTreeMap::new() }
    }

    /// The figures of a run; those of one run may come in parts.
    pub fn add(&mut self, run: usize, who: &'static str, f: Figures) {
        let runs = self.runs.entry(who).or_default();
        match runs.get_mut(run - 1) {
            Some((all, _)) => all.extend(f),
            None => runs.push((f, load_average())),
        }
    }

    fn median(&self, who: &str, what: &str) -> Option<f64> {
        let mut all: Vec<f64> = self.runs.get(who)?.iter().filter_map(|(f, _)| f.get(what).copied()).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    }

    fn names(&self, who: &str) -> Vec<String> {
        self.runs.get(who).and_then(|r| r.first()).map(|(f, _)| f.keys().cloned().collect()).unwrap_or_default()
    }

    pub fn table(&self) -> String {
        let mut t = Table::new();
        t.load_style(NOTHING);
        t.set_header(["", "MEW", "POSTGRESQL", "BETTER BY"]);
        for name in self.names("mew") {
            let (ours, theirs) = (self.median("mew", &name), self.median("postgres", &name));
            let cell = |v: Option<f64>| v.map_or("-".to_owned(), number);
            t.add_row([name.clone(), cell(ours), cell(theirs), ratio(&name, ours, theirs)]);
        }
        for name in self.names("operator") {
            t.add_row([
                name.clone(),
                self.median("operator", &name).map_or("-".to_owned(), number),
                String::new(),
                String::new(),
            ]);
        }
        let n = self.runs.values().map(Vec::len).max().unwrap_or(0);
        format!(
            "{} entities, half match; medians of {n} run{}; {}\n\n{}",
            self.plan.entities,
            if n == 1 { "" } else { "s" },
            if self.peer_version.is_empty() { "no peer" } else { &self.peer_version },
            t.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
        )
    }

    pub fn json(&self) -> Result<String> {
        let runs: BTreeMap<_, Vec<_>> = self
            .runs
            .iter()
            .map(|(who, r)| (*who, r.iter().map(|(f, load)| json!({"figures": f, "loadAverage": load})).collect()))
            .collect();
        Ok(serde_json::to_string_pretty(&json!({"plan": self.plan, "peer": self.peer_version, "runs": runs}))? + "\n")
    }
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
