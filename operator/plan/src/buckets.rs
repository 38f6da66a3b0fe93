//! Figures in a status are coarse: it is written when one crosses into another bucket, not whenever it moves.

/// Upper bounds, exclusive, of the buckets of a lag, and what they are called.
const LAG: [(u64, &str); 8] = [
    (1_000, "0s"),
    (5_000, "1s"),
    (15_000, "5s"),
    (60_000, "15s"),
    (300_000, "1m"),
    (900_000, "5m"),
    (3_600_000, "15m"),
    (u64::MAX, ">1h"),
];

/// The bucket of a lag. One bucket down needs a fifth less than the boundary, so that a value that swings around it does
/// not cause a write each time.
pub fn lag(ms: Option<u64>, old: Option<&str>) -> String {
    let Some(ms) = ms else { return "-".into() };
    let index = |ms: u64| LAG.iter().position(|(max, _)| ms < *max).unwrap_or(LAG.len() - 1);
    let (now, stricter) = (index(ms), index(ms.saturating_add(ms / 4)));
    let before = LAG.iter().position(|(_, n)| Some(*n) == old);
    match before {
        Some(b) if b == stricter && stricter == now + 1 => LAG[b].1.into(),
        _ => LAG[now].1.into(),
    }
}

/// One significant digit: 0, 1, …, 9, 10, 20, …
pub fn count(n: u64) -> i64 {
    let mut unit = 1;
    while n / unit >= 10 {
        unit *= 10;
    }
    i64::try_from(n / unit * unit).unwrap_or(i64::MAX)
}

/// Whole fives of per cent; 100 only when it is done.
pub fn percent(p: u8) -> String {
    if p >= 100 { "100%".into() } else { format!("{}%", p / 5 * 5) }
}
