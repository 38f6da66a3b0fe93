use super::Case;
use crate::pair::{AIRPORTS, POLICY};
use crate::side::Side;
use crate::table::{Row, shows};
use crate::world::World;
use anyhow::{Context, Result, ensure};

pub const CASE: Case = Case {
    name: "columns",
    core: true,
    proves: "`kubectl get` says in its columns what is so, in all three kinds, no cell empty",
    run,
};

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    // Nothing is on its way: figures are what they stay.
    p.same()?;
    p.east.wait("sync", AIRPORTS, "has no lag", |s| s["status"]["lag"] == "0s" && s["status"]["failed"] == 0)?;
    let header = ["NAME", "READY", "REASON", "REMOTE", "DIRECTION", "LAG", "FAILED", "AGE"];
    let sync = row(&p.east, "syncs", AIRPORTS, &header, &[])?;
    shows(
        &sync,
        &[("READY", "True"), ("REASON", "InSync"), ("REMOTE", "us-west"), ("DIRECTION", "Push"), ("LAG", "0s")],
    )?;
    shows(&sync, &[("FAILED", "0")])?;

    let header = ["NAME", "READY", "REASON", "KERNEL", "PEER", "SYNCS", "AGE"];
    let remote = row(&p.east, "remotes", "us-west", &header, &[])?;
    shows(&remote, &[("READY", "True"), ("REASON", "Connected"), ("KERNEL", "us-east"), ("SYNCS", "2")])?;
    let peer = remote.get("PEER").map_or("", String::as_str);
    ensure!(peer.starts_with("mew://") && peer.ends_with("/flights.us-west"), "{remote:?}");
    let wide = ["PHASE", "HEALTH", "TRUST-DOMAIN", "CERT-EXPIRES"];
    let remote = row(&p.east, "remotes", "us-west", &header, &wide)?;
    shows(&remote, &[("PHASE", "Connected"), ("HEALTH", "Healthy"), ("TRUST-DOMAIN", "west.example")])?;
    let expires = remote.get("CERT-EXPIRES").map_or("", String::as_str);
    ensure!(expires.starts_with("20") && expires.ends_with('Z'), "{remote:?}");

    let header = ["NAME", "READY", "REASON", "MODE", "REMOTES", "SYNCS", "DENIED", "AGE"];
    let policy = row(&p.east, "federationpolicies", POLICY, &header, &[])?;
    shows(&policy, &[("READY", "True"), ("REASON", "Enforced"), ("MODE", "ExplicitBridging"), ("REMOTES", "1")])?;
    shows(&policy, &[("SYNCS", "2"), ("DENIED", "0")])
}

/// A row as it is printed, cell by column; the columns must be these, and more only if they are asked for.
fn row(s: &Side, kind: &str, name: &str, header: &[&str], wide: &[&str]) -> Result<Row> {
    let mut args = vec!["get", kind, "-n", &s.namespace];
    if !wide.is_empty() {
        args.extend(["-o", "wide"]);
    }
    let text = s.cluster.kubectl(&args)?;
    let mut lines = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    let columns = lines.next().unwrap_or_default();
    let want: Vec<&str> = header.iter().chain(wide).copied().collect();
    // The last wide column is a message, which may be empty.
    let same = if wide.is_empty() { columns == want } else { columns.starts_with(&want) };
    ensure!(same, "the columns are not {want:?}:\n{text}");
    let cells = lines.find(|l| l.first() == Some(&name)).with_context(|| format!("{name} is not in\n{text}"))?;
    ensure!(cells.len() >= want.len(), "a cell of {name} is empty:\n{text}");
    Ok(want.iter().zip(cells).map(|(column, cell)| ((*column).to_owned(), cell.to_owned())).collect())
}
