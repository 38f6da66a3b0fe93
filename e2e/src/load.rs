//! Writes of the application (`e2e/app`) at a steady rate, numbered by what its kernel acknowledged: in the end each number
//! must be at both sides, once.

use crate::cluster::name_of;
use crate::side::{APP, Side};
use crate::wait::{PATIENCE, until};
use anyhow::{Result, ensure};

/// Fast enough that every moment of an upgrade has a write in it.
pub const EVERY_MS: u32 = 100;

#[derive(Clone, Copy)]
pub enum Load {
    /// In the east.
    Airports,
    /// In the west.
    Inspections,
}

impl Load {
    /// As the application calls it.
    fn name(self) -> &'static str {
        match self {
            Load::Airports => "airports",
            Load::Inspections => "inspections",
        }
    }

    /// All numbers, ascending.
    fn query(self) -> &'static str {
        match self {
            Load::Airports => r#"MATCH a: Airport WHERE a.name = "load" RETURN a.iata ORDER BY a.iata"#,
            Load::Inspections => r#"MATCH i: Inspection WHERE i.airport = "LOAD" RETURN i.finding ORDER BY i.finding"#,
        }
    }

    /// Makes the application write: an update of its Deployment, as any.
    pub fn start(self, s: &Side, every_ms: u32) -> Result<()> {
        set(s, &[&format!("LOAD_EVERY_MS={every_ms}"), &format!("LOAD_OF={}", self.name())])
    }

    /// What was acknowledged at the one side is there, and at the other one too, each number once.
    pub fn all_arrived_once(self, from: &Side, to: &Side, acknowledged: u64) -> Result<()> {
        let written = from.rows(self.query())?;
        let want: Vec<Vec<String>> = (0..written.len()).map(|n| vec![format!("{n:04X}")]).collect();
        ensure!(
            !written.is_empty() && written == want,
            "{} writes of {}, and they are not one after the other",
            written.len(),
            self.name()
        );
        to.wait_for_rows("all that was written is there", self.query(), |rows| rows.len() >= written.len())?;
        ensure!(to.rows(self.query())? == written, "{}: something was lost or doubled on its way", self.name());
        ensure!(written.len() as u64 >= acknowledged, "{acknowledged} acknowledged, {} there", written.len());
        Ok(())
    }
}

/// The application goes on without writing.
pub fn stop(s: &Side) -> Result<()> {
    set(s, &["LOAD_EVERY_MS=0"])
}

fn set(s: &Side, variables: &[&str]) -> Result<()> {
    let object = format!("deployment/{}", s.kernel);
    let mut args = vec!["set", "env", object.as_str(), "-n", &s.namespace, "-c", APP];
    args.extend(variables);
    s.cluster.kubectl(&args)?;
    s.rolled_out()
}

/// How many writes the application of the pod that holds the kernel was told of.
pub fn acknowledged(s: &Side) -> Result<u64> {
    until("the application writes", PATIENCE, || {
        let log = s.cluster.kubectl(&["logs", &name_of(&s.pod()?), "-n", &s.namespace, "-c", APP, "--tail=20"])?;
        Ok(log.lines().rev().find_map(|l| l.strip_prefix("acknowledged ")?.parse().ok()))
    })
}

/// The application still writes, after everything; how many writes are acknowledged now.
pub fn goes_on(s: &Side, before: u64) -> Result<u64> {
    let now = acknowledged(s)?;
    ensure!(now > before, "{now} writes now, {before} before");
    until("more is acknowledged", PATIENCE, || Ok(Some(acknowledged(s)?).filter(|n| *n > now)))
}
