//! What both sides carry: tasks of nine attributes, about 300 bytes as JSON, half of them shared; projects, all of them
//! shared; and edges by which some tasks belong to a project.

const WORDS: [&str; 32] = [
    "valve", "sensor", "line", "north", "south", "pump", "check", "report", "order", "crate", "panel", "filter",
    "bolt", "shift", "audit", "supply", "route", "depot", "gauge", "motor", "relay", "clean", "paint", "weld", "lift",
    "test", "ship", "count", "label", "store", "queue", "batch",
];
/// So that each has many tasks, and all of them are a small part of what is copied.
pub const PROJECTS: u64 = 1000;
const STATUS: [&str; 5] = ["open", "active", "blocked", "review", "done"];

pub struct Task {
    pub id: String,
    /// Unique beside the id.
    pub code: String,
    pub title: String,
    pub status: &'static str,
    pub priority: i64,
    pub assignee: String,
    pub shared: bool,
    pub due: i64,
    pub estimate: f64,
    pub version: i64,
    pub note: String,
}

pub struct Project {
    pub id: String,
    /// Unique beside the id.
    pub code: String,
    pub name: String,
}

/// splitmix64
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

/// The order of ids has nothing to do with the order of creation.
pub fn id(i: u64) -> String {
    format!("task-{:016x}-{:02x}", i.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x5EED), i & 0xff)
}

pub fn is_shared(i: u64) -> bool {
    i.is_multiple_of(2)
}

/// A tenth of the tasks belong to a project, half of them shared. The first task does not.
pub fn belongs(i: u64) -> bool {
    matches!(i % 20, 10 | 11)
}

/// The project that a task belongs to at a version, if it belongs to any: the next version is in another one.
pub fn project_of(i: u64, version: i64) -> Option<u64> {
    belongs(i).then(|| (Rng(i).below(PROJECTS) + version.unsigned_abs()) % PROJECTS)
}

/// What an update of these tasks changes: each of them, and of one that belongs to a project the edge that goes and the one
/// that comes.
pub fn changes(ids: impl IntoIterator<Item = u64>) -> u64 {
    ids.into_iter().map(|i| if belongs(i) { 3 } else { 1 }).sum()
}

/// Projects, and of the first `n` tasks those that are shared, with their edges.
pub fn matching(n: u64) -> u64 {
    PROJECTS + (0..n).filter(|i| is_shared(*i)).map(|i| 1 + u64::from(belongs(i))).sum::<u64>()
}

pub fn project_id(k: u64) -> String {
    format!("project-{:016x}", k.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x5EED))
}

pub fn project(k: u64) -> Project {
    Project { id: project_id(k), code: format!("P-{k:09}"), name: format!("{} {}", word(k, 0), word(k, 1)) }
}

fn word(x: u64, k: u32) -> &'static str {
    WORDS[(x >> (5 * k)) as usize & 31]
}

pub fn task(i: u64, version: i64) -> Task {
    let mut r = Rng((i << 24) ^ version as u64);
    let (x, y) = (r.next(), r.next());
    let mut note: String = (0..12).map(|k| word(y, k)).chain((3..12).map(|k| word(x, k))).collect::<Vec<_>>().join(" ");
    note.truncate(100);
    Task {
        id: id(i),
        code: format!("C-{i:09}"),
        title: format!("{} {} {} {:05}", word(x, 0), word(x, 1), word(x, 2), y % 100_000),
        status: STATUS[(x % 5) as usize],
        priority: (x % 9) as i64,
        assignee: format!("user-{:06}", y % 1_000_000),
        shared: is_shared(i),
        due: 1_700_000_000_000 + (y % 10_000_000_000) as i64,
        estimate: (x % 900) as f64 / 10.0,
        version,
        note,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_belongs_to_projects_that_change_with_each_version() {
        let belonging: Vec<u64> = (0..1000).filter(|i| belongs(*i)).collect();
        assert_eq!(belonging.len(), 100);
        assert_eq!(belonging.iter().filter(|i| is_shared(**i)).count(), 50);
        assert!(belonging.iter().all(|i| project_of(*i, 7) != project_of(*i, 8)));
        assert!((0..1000).filter(|i| !belongs(*i)).all(|i| project_of(i, 7).is_none()));
    }

    #[test]
    fn edges_count() {
        assert_eq!(changes([0, 1, 2]), 3);
        assert_eq!(changes([0, 10, 11]), 1 + 3 + 3);
        assert_eq!(matching(1000), PROJECTS + 500 + 50);
    }
}
