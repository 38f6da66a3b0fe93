//! The reconnect schedule (A0-15): initial, ×multiplier, at most max, each wait varied by the jitter.

use mew_contract::snapshot::Retry;

/// Milliseconds before try number `attempt` (0 = the first retry). `random` is any number; with jitter 0 it has no effect.
pub fn wait_ms(r: &Retry, attempt: u32, random: u64) -> u64 {
    let factor = u64::from(r.multiplier.max(1)).saturating_pow(attempt);
    let base = r.initial_ms.max(1).saturating_mul(factor).min(r.max_ms.max(1));
    let spread = base.saturating_mul(u64::from(r.jitter_percent)) / 100;
    if spread == 0 { base } else { base - spread + random % (2 * spread + 1) }
}
