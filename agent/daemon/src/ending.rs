//! The agent's end: nothing more is written, what peers have not got is sent while there is time, and what is left is said.

use mew_net::{Gate, Hub};
use mew_sync::Outstanding;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Peers close their connections when they hear that this agent ends; one that does not is not waited for.
pub const GOODBYE: Duration = Duration::from_secs(1);
/// Of the grace period, for what comes after the drain: the goodbye, the last report, and whatever has to be cut off.
const MARGIN: Duration = Duration::from_secs(5);
/// Whoever gives more time means: for ever.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Mostly everything is confirmed within this. If not, it is said what is waited for: how much of the grace period the
/// application has used is not known here, and the kubelet may kill this process before its own time is over.
const AT_ONCE: Duration = Duration::from_millis(500);
/// Flows that are named, in the log and to the operator; an agent may have thousands.
const NAMED: usize = 32;

/// Waits until peers have everything, or time is over. Returns what is left, for people.
pub async fn drain(hub: &Hub, gate: &Gate, grace: Duration, is_ephemeral: bool) -> Vec<String> {
    let end = Instant::now() + grace.saturating_sub(MARGIN).min(LONGEST);
    let rest = || end.saturating_duration_since(Instant::now());
    if timeout_at(end, gate.close()).await.is_err() {
        tracing::warn!("a script is still running; what it commits from now on is not sent before this agent is back");
    }
    // Also if a script took all the time: links that were not asked would be said to have sent nothing.
    let mut left = hub.drain(AT_ONCE).await;
    let waits = left.iter().filter(|o| o.waits).count();
    if waits > 0 {
        tracing::info!(
            flows = waits,
            seconds = rest().as_secs(),
            "peers have not got everything yet; they get it first"
        );
        for o in left.iter().filter(|o| o.waits).take(NAMED) {
            tracing::info!("waiting for {o}");
        }
        left = hub.drain(rest()).await;
    }
    said(&left, is_ephemeral)
}

fn said(left: &[Outstanding], is_ephemeral: bool) -> Vec<String> {
    if left.is_empty() {
        tracing::info!("drained: the peers have everything, nothing is left");
        return Vec::new();
    }
    let mut lines: Vec<String> = left.iter().take(NAMED).map(ToString::to_string).collect();
    if left.len() > NAMED {
        lines.push(format!("and {} more flows", left.len() - NAMED));
    }
    for line in &lines {
        tracing::warn!("left: {line}");
    }
    let what = if is_ephemeral { "it goes with the data of this pod" } else { "it is sent when this kernel is back" };
    tracing::warn!(flows = left.len(), "something is left that peers have not got: {what}");
    lines
}
