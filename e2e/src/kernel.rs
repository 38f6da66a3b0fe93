//! A kernel in a pod, as people talk to it: `mew` beside the agent, by `kubectl exec`.

use crate::cluster::Cluster;
use anyhow::Result;

/// The container, as a sidecar and in a kernel on its own.
pub const AGENT: &str = "mew-agent";

pub struct Kernel<'a> {
    pub cluster: &'a Cluster,
    pub namespace: &'a str,
    pub pod: &'a str,
}

impl Kernel<'_> {
    pub fn mew(&self, command: &[&str]) -> Result<String> {
        let mut args = vec!["exec", self.pod, "-n", self.namespace, "-c", AGENT, "--", "mew"];
        args.extend(command);
        self.cluster.kubectl(&args)
    }

    pub fn execute(&self, statement: &str) -> Result<()> {
        self.mew(&["exec", statement]).map(drop)
    }

    pub fn rows(&self, query: &str) -> Result<Vec<Vec<String>>> {
        let text = self.mew(&["query", "-o", "csv", query])?;
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let mut rows = Vec::new();
        for r in reader.records() {
            rows.push(r?.iter().map(str::to_owned).collect());
        }
        Ok(rows)
    }
}
