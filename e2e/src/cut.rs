//! A cut between the clusters: the nodes of one drop every packet from and to the nodes of the other. What runs in either
//! goes on, and so do names and what is inside a cluster.

use crate::cluster::Cluster;
use anyhow::Result;

/// A chain of our own, so that taking it away takes nothing else.
const CHAIN: &str = "MEW-E2E-CUT";

/// Both ways, for connections that are open too.
pub fn between(here: &Cluster, there: &Cluster) -> Result<()> {
    let drops: String = there
        .nodes()?
        .iter()
        .map(|(_, a)| format!("iptables -w -A {CHAIN} -s {a} -j DROP\niptables -w -A {CHAIN} -d {a} -j DROP\n"))
        .collect();
    // Packets of pods are forwarded; those of the node itself are not.
    let chains = format!("for c in INPUT FORWARD OUTPUT; do iptables -w -I $c -j {CHAIN}; done");
    on_all(here, &format!("set -e\niptables -w -N {CHAIN}\n{drops}{chains}")).map(drop)
}

/// Also if only a part of the cut was made.
pub fn heal(here: &Cluster) -> Result<()> {
    let script = format!(
        "for c in INPUT FORWARD OUTPUT; do while iptables -w -D $c -j {CHAIN} 2>/dev/null; do :; done; done
iptables -w -F {CHAIN} 2>/dev/null && iptables -w -X {CHAIN}
! iptables -w -n -L {CHAIN} >/dev/null 2>&1"
    );
    on_all(here, &script).map(drop)
}

/// What was dropped, by rule: a cut that nothing met is none.
pub fn counters(here: &Cluster) -> Result<String> {
    on_all(here, &format!("iptables -w -n -v -L {CHAIN}"))
}

fn on_all(c: &Cluster, script: &str) -> Result<String> {
    let mut said = String::new();
    for (node, _) in c.nodes()? {
        let out = c.on_node(&node, &["sh", "-c", script])?;
        said.push_str(&format!("{node}:\n{out}"));
    }
    Ok(said)
}
