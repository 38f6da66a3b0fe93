use super::{Case, mending};
use crate::late;
use crate::pair::{Pair, claim};
use crate::run::output;
use crate::side::{AGENT, Side};
use crate::world::World;
use anyhow::{Context, Result, bail, ensure};
use mew_tests::dirs::root;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub const CASE: Case = Case {
    name: "backup-restored",
    core: false,
    proves: "a backup of a live kernel is restored as docs/operations.md says: SourceReset, and then both sides are equal",
    run,
};

const GUIDE: &str = "docs/operations.md";
const RESET: &str = "restored-by-the-suite";
/// As the guide compares them: the id is the same at both ends.
const AIRPORTS: &str = "MATCH a: Airport RETURN a._sync_id, a.iata, a.name, a.country, a.latitude, a.longitude \
                        ORDER BY a._sync_id";

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let east = w.east_said()?;
    let incarnation = p.east.incarnation()?;
    let file = w.east.client().dir().join("backup.tar");
    p.east.execute(&[spawn(None, "BK1", "as in the backup"), spawn(None, "BK2", "to be deleted")].join(";\n"))?;
    p.same()?;

    typed(&p.east, &format!("exec deploy/{} -c {AGENT} -- mew store backup - > \"$FILE\"", p.east.kernel), &file)?;
    p.east.execute(r#"MATCH a: Airport WHERE a.iata = "BK1" SET a.name = "changed later""#)?;
    p.east.execute(r#"MATCH a: Airport WHERE a.iata = "BK2" KILL a"#)?;
    p.east.execute(&spawn(None, "BK3", "written later"))?;
    let inspection = p.write_west()?;
    p.same()?;

    restore(&p.east, &w.prepared.mew.name, &file)?;
    for s in p.east.syncs {
        p.east.shows("sync", s, "False", "SourceReset")?;
    }
    ensure!(p.east.incarnation()? != incarnation, "a restored directory, and the same incarnation");
    // A flow into it needs nobody's help.
    p.arrives_east(&inspection)?;
    p.west.all_ready()?;
    let lost = lost(&p)?;
    ensure!(
        (lost.added(), lost.changed(), lost.deleted()) == (vec!["BK3"], vec!["BK1"], vec!["BK2"]),
        "otherwise than expected: {lost:?}"
    );
    // What is written now waits for people, and no status hides that.
    let airport = p.write_east()?.seen_by(east);
    late::stays_away(east, &airport, &p.west)?;

    for s in p.east.syncs {
        let annotation = format!("federation.mew.dev/reset={RESET}");
        p.east.cluster.kubectl(&["annotate", "sync", s, "-n", &p.east.namespace, "--overwrite", &annotation])?;
        p.east.wait("sync", s, "has handled the reset", |o| o["status"]["lastHandled"]["reset"] == RESET)?;
    }
    late::arrives(east, &airport, &p.west)?;
    ensure!(
        p.west.rows(AIRPORTS)?.iter().any(|r| r.get(1).is_some_and(|iata| iata == "BK3")),
        "the reset took BK3 away"
    );
    p.east.execute(&lost.again().join(";\n"))?;
    p.all_ready()?;
    p.same()?;
    p.flows_west()?;
    p.flows_east()
}

fn spawn(id: Option<&str>, iata: &str, name: &str) -> String {
    let id = id.map(|id| format!(r#"_sync_id = "{id}", "#)).unwrap_or_default();
    format!(
        r#"SPAWN Airport {{{id}iata = "{iata}", name = "{name}", country = "USA", latitude = 1.5, longitude = 2.5}}"#
    )
}

/// Runs kubectl by a shell, as people do who give it a file; `$FILE` stands for that.
fn typed(s: &Side, line: &str, file: &Path) -> Result<String> {
    let mut c = s.cluster.command(Path::new("sh"));
    c.args(["-c", &format!("\"$KUBECTL\" -n \"$NAMESPACE\" {line}")]);
    c.env("KUBECTL", s.cluster.client().program()).env("NAMESPACE", &s.namespace).env("FILE", file);
    output(c, "")
}

// --------------------------------------------------------------------- restore

fn restore(s: &Side, image: &str, backup: &Path) -> Result<()> {
    s.scale(0)?;
    s.wait_for_no_pods()?;
    mending(
        || {
            s.cluster.apply(&pod_of_the_guide(s, image)?)?;
            typed(s, "wait --for=condition=Ready pod/restore --timeout=120s", backup)?;
            let line = "exec -i restore -- mew store restore - --data /data --set-aside < \"$FILE\"";
            typed(s, line, backup).map(drop)
        },
        || {
            typed(s, "delete pod restore --ignore-not-found --timeout=120s", backup)?;
            s.scale(1)
        },
    )?;
    s.wait_for_pod().map(drop)
}

/// The manifest of the guide with what people put in its place.
fn pod_of_the_guide(s: &Side, image: &str) -> Result<String> {
    let guide = fs::read_to_string(root().join(GUIDE)).context(GUIDE)?;
    let mut blocks = guide.split("```yaml\n").skip(1).filter_map(|b| b.split_once("```")).map(|(block, _)| block);
    let mut pod = blocks.find(|b| b.contains("name: restore")).context("no pod in the guide")?.to_owned();
    for (there, ours) in [
        ("namespace: shop", format!("namespace: {}", s.namespace)),
        ("registry.example.com/mew:1.2.3", image.to_owned()),
        ("claimName: till-data", format!("claimName: {}", claim(s))),
    ] {
        ensure!(pod.contains(there), "{GUIDE} has no {there:?} any more:\n{pod}");
        pod = pod.replace(there, &ours);
    }
    Ok(pod)
}

// ---------------------------------------------------------------- what was lost

/// Airports by their ids, as the sink and as the source have them, where they differ.
#[derive(Debug)]
struct Lost(BTreeMap<String, (Option<Airport>, Option<Airport>)>);

#[derive(Debug, PartialEq)]
struct Airport {
    iata: String,
    name: String,
    rest: Vec<String>,
}

fn lost(p: &Pair) -> Result<Lost> {
    let mut all: BTreeMap<String, (Option<Airport>, Option<Airport>)> = BTreeMap::new();
    for (side, is_sink) in [(&p.west, true), (&p.east, false)] {
        for row in side.rows(AIRPORTS)? {
            let [id, iata, name, rest @ ..] = row.as_slice() else { bail!("no airport: {row:?}") };
            let airport = Airport { iata: iata.clone(), name: name.clone(), rest: rest.to_vec() };
            let both = all.entry(id.clone()).or_default();
            *(if is_sink { &mut both.0 } else { &mut both.1 }) = Some(airport);
        }
    }
    all.retain(|_, (sink, source)| sink != source);
    Ok(Lost(all))
}

impl Lost {
    fn names(&self, which: impl Fn(bool, bool) -> bool) -> Vec<&str> {
        let those = self.0.values().filter(|(sink, source)| which(sink.is_some(), source.is_some()));
        those.filter_map(|(sink, source)| sink.as_ref().or(source.as_ref())).map(|a| a.iata.as_str()).collect()
    }

    fn added(&self) -> Vec<&str> {
        self.names(|sink, source| sink && !source)
    }

    fn changed(&self) -> Vec<&str> {
        self.names(|sink, source| sink && source)
    }

    fn deleted(&self) -> Vec<&str> {
        self.names(|sink, source| !sink && source)
    }

    /// The table of the guide: each of them once more, at the source.
    fn again(&self) -> Vec<String> {
        let it = |n: usize, id: &str| format!(r#"MATCH a{n}: Airport WHERE a{n}._sync_id = "{id}""#);
        let statement = |(n, (id, both)): (usize, (&String, &(Option<Airport>, Option<Airport>)))| match both {
            (Some(sink), None) => spawn(Some(id), &sink.iata, &sink.name),
            (Some(sink), Some(_)) => format!(r#"{} SET a{n}.name = "{}""#, it(n, id), sink.name),
            (None, _) => format!("{} KILL a{n}", it(n, id)),
        };
        self.0.iter().enumerate().map(statement).collect()
    }
}
