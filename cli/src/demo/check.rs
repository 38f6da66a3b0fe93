//! Whether everything arrived: both kernels are asked, and compared entity by entity, edges and absences too.

use crate::client::Kernel;
use anyhow::Result;
use mew_model::Value;

struct Comparison {
    what: &'static str,
    source: &'static str,
    sink: &'static str,
}

/// What the manifests declare, as queries: the left side restricted to what is shared, the right side to nothing.
const COMPARISONS: [Comparison; 5] = [
    Comparison {
        what: "airports",
        source: r#"MATCH a: Airport WHERE a.country = "USA" RETURN a._sync_id, a._version, a.iata, a.name, a.city, a.country, a.latitude, a.longitude ORDER BY a._sync_id"#,
        sink: "MATCH a: Airport RETURN a._sync_id, a._version, a.iata, a.name, a.city, a.country, a.latitude, a.longitude ORDER BY a._sync_id",
    },
    Comparison {
        what: "states",
        source: "MATCH s: State RETURN s._sync_id, s._version, s.code ORDER BY s._sync_id",
        sink: "MATCH s: State RETURN s._sync_id, s._version, s.code ORDER BY s._sync_id",
    },
    Comparison {
        what: "flights",
        source: r#"MATCH a: Airport, b: Airport, flight(a, b) AS f WHERE a.country = "USA" or b.country = "USA" RETURN f._sync_id, f._version, a.iata, b.iata, f.count ORDER BY f._sync_id"#,
        sink: "MATCH a: Airport, b: Airport, flight(a, b) AS f RETURN f._sync_id, f._version, a.iata, b.iata, f.count ORDER BY f._sync_id",
    },
    Comparison {
        what: "located_in edges",
        source: r#"MATCH a: Airport, s: State, located_in(a, s) AS l WHERE a.country = "USA" RETURN l._sync_id, l._version, a.iata, s.code ORDER BY l._sync_id"#,
        sink: "MATCH a: Airport, s: State, located_in(a, s) AS l RETURN l._sync_id, l._version, a.iata, s.code ORDER BY l._sync_id",
    },
    Comparison {
        what: "inspections (none may be there)",
        source: "MATCH i: Inspection WHERE false RETURN i._sync_id",
        sink: "MATCH i: Inspection RETURN i._sync_id",
    },
];

/// A line for each comparison, and whether all are equal.
pub async fn compare(source: &Kernel, sink: &Kernel) -> Result<(Vec<String>, bool)> {
    let (mut lines, mut equal) = (Vec::new(), true);
    for c in &COMPARISONS {
        let (a, b) = (source.rows(c.source).await?, sink.rows(c.sink).await?);
        let missing = difference(&a, &b);
        let extra = difference(&b, &a);
        let ok = missing == 0 && extra == 0;
        equal &= ok;
        lines.push(if ok {
            format!("ok    {:>5} {} are equal", a.len(), c.what)
        } else {
            format!("WRONG {}: {missing} of {} are missing or differ, {extra} are too many", c.what, a.len())
        });
    }
    Ok((lines, equal))
}

fn difference(a: &[Vec<Value>], b: &[Vec<Value>]) -> usize {
    let key = |r: &Vec<Value>| r.iter().map(Value::to_string).collect::<Vec<_>>().join("\u{1}");
    let there: std::collections::HashSet<String> = b.iter().map(key).collect();
    a.iter().filter(|r| !there.contains(&key(r))).count()
}
