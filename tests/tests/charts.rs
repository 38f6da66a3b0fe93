//! The charts: what they render, what they refuse, what they say of themselves, and what real API servers say to them.
//!
//! `MEW_WRITE_GOLDEN=1` writes the renderings, the tables of the READMEs and the page of rights anew, for a person to read the
//! difference.

#[path = "charts/papers.rs"]
mod papers;
#[path = "charts/rights_page.rs"]
mod rights_page;
#[path = "charts/rules.rs"]
mod rules;
#[path = "charts/servers.rs"]
mod servers;

use anyhow::{Context, Result, anyhow, bail, ensure};
use mew_tests::charts::{self, objects};
use mew_tests::dirs::root;
use mew_tests::tools::helm;
use serde::Deserialize;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Of the workspace, and so of everything in it.
const VERSION: &str = env!("CARGO_PKG_VERSION");

struct Chart {
    name: &'static str,
    /// Name and namespace of its release, as the documentation has them.
    release: &'static str,
    namespace: &'static str,
}

/// In the order in which they are installed.
const CHARTS: [Chart; 3] = [
    Chart { name: "mew-crds", release: "mew-crds", namespace: "mew-system" },
    Chart { name: "mew-operator", release: "mew-operator", namespace: "mew-system" },
    Chart { name: "mew-kernel", release: "shop", namespace: "team-a" },
];

/// Values that a chart is rendered with.
struct Case {
    name: String,
    values: PathBuf,
    /// What comes out, as committed.
    golden: PathBuf,
}

impl Chart {
    fn named(name: &str) -> Result<&'static Self> {
        CHARTS.iter().find(|c| c.name == name).with_context(|| format!("there is no chart {name}"))
    }

    fn dir(&self) -> PathBuf {
        root().join("charts").join(self.name)
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.dir().join(file);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// One for each `<name>.values.yaml`.
    fn cases(&self) -> Result<Vec<Case>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder().join(self.name))? {
            let values = entry?.path();
            let file = values.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(name) = file.strip_suffix(".values.yaml") {
                let golden = values.with_file_name(format!("{name}.yaml"));
                all.push(Case { name: name.to_owned(), values, golden });
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        ensure!(all.iter().any(|c| c.name == "default"), "{} has no default case", self.name);
        Ok(all)
    }

    fn case(&self, name: &str) -> Result<Case> {
        self.cases()?.into_iter().find(|c| c.name == name).with_context(|| format!("{} has no case {name}", self.name))
    }

    /// The manifests with these values; of two files the later one wins.
    fn render(&self, namespace: &str, values: &[&Path]) -> Result<String> {
        charts::render(self.name, self.release, namespace, values)
    }
}

fn folder() -> PathBuf {
    root().join("tests/tests/charts")
}

/// Kind, namespace and name of an object, for people.
fn id(o: &Value) -> String {
    let meta = |f: &str| o["metadata"][f].as_str().unwrap_or_default();
    format!("{} {}/{}", o["kind"].as_str().unwrap_or("?"), meta("namespace"), meta("name"))
}

/// Compares a committed file with what it should be, or writes it.
fn committed(path: &Path, now: &str) -> Result<()> {
    if std::env::var_os("MEW_WRITE_GOLDEN").is_some_and(|v| !v.is_empty()) {
        return fs::write(path, now).with_context(|| path.display().to_string());
    }
    let was = fs::read_to_string(path).unwrap_or_default();
    if was == now {
        return Ok(());
    }
    let line = was.lines().zip(now.lines()).take_while(|(a, b)| a == b).count();
    let at = |text: &str| text.lines().nth(line).unwrap_or("the end").to_owned();
    bail!(
        "{} is another one now; MEW_WRITE_GOLDEN=1 writes it anew. Line {}, committed and now:\n  {}\n  {}",
        path.display(),
        line + 1,
        at(&was),
        at(now)
    )
}

#[test]
fn charts_render_as_committed() -> Result<()> {
    for chart in &CHARTS {
        for case in chart.cases()? {
            let text = chart.render(chart.namespace, &[&case.values])?;
            // The CRDs are in crds/generated; a copy of them in every difference would hide the rest.
            let shown = |d: &&str| !d.is_empty() && !d.contains("\nkind: CustomResourceDefinition\n");
            let documents: Vec<String> =
                text.split("---\n").filter(shown).map(|document| format!("---\n{document}")).collect();
            committed(&case.golden, &documents.concat())?;
        }
    }
    Ok(())
}

#[test]
fn renderings_keep_the_rules() -> Result<()> {
    for chart in &CHARTS {
        for case in chart.cases()? {
            let all = objects(&chart.render(chart.namespace, &[&case.values])?)?;
            rules::check(&all).with_context(|| format!("{} with {}", chart.name, case.name))?;
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    chart: String,
    /// Beside those of the default case.
    values: Value,
    says: String,
}

#[test]
fn wrong_values_are_refused_by_name() -> Result<()> {
    let table = fs::read_to_string(folder().join("refused.yaml"))?;
    let table: Vec<Refused> = serde_saphyr::from_str(&table).map_err(|e| anyhow!("{e}"))?;
    ensure!(table.len() >= 40, "only {} cases", table.len());
    let dir = tempfile::tempdir()?;
    let wrong = dir.path().join("wrong.json");
    let mut failures = Vec::new();
    for r in &table {
        let chart = Chart::named(&r.chart)?;
        fs::write(&wrong, r.values.to_string())?;
        match chart.render(chart.namespace, &[&chart.case("default")?.values, &wrong]) {
            Ok(_) => failures.push(format!("{} took {}", r.chart, r.values)),
            Err(e) if format!("{e:#}").contains(&r.says) => {}
            Err(e) => failures.push(format!("{} with {}: not {:?}, but {e:#}", r.chart, r.values, r.says)),
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[test]
fn helm_lint_finds_nothing() -> Result<()> {
    for chart in &CHARTS {
        for case in chart.cases()? {
            let mut c = helm();
            c.args(["lint", "--strict", "--quiet"]).arg(chart.dir()).arg("--values").arg(&case.values);
            charts::says(c).with_context(|| format!("{} with {}", chart.name, case.name))?;
        }
    }
    Ok(())
}

#[test]
fn an_older_kubernetes_is_refused() -> Result<()> {
    for chart in &CHARTS {
        let mut c = helm();
        c.args(["template", chart.release]).arg(chart.dir()).arg("--values").arg(chart.case("default")?.values);
        c.args(["--kube-version", "1.32.9"]);
        let e = charts::says(c).err().with_context(|| format!("{} takes 1.32", chart.name))?;
        ensure!(format!("{e:#}").contains("requires kubeVersion"), "{e:#}");
    }
    Ok(())
}

#[test]
fn charts_and_program_have_one_version() -> Result<()> {
    for chart in &CHARTS {
        let about: Value = serde_saphyr::from_str(&chart.read("Chart.yaml")?).map_err(|e| anyhow!("{e}"))?;
        for field in ["version", "appVersion"] {
            ensure!(about[field] == VERSION, "{field} of {} is {}, not {VERSION}", chart.name, about[field]);
        }
        ensure!(about["name"] == chart.name, "{} calls itself {}", chart.name, about["name"]);
    }
    Ok(())
}

#[test]
fn the_chart_of_the_kinds_has_them_as_they_are_generated() -> Result<()> {
    let chart = Chart::named("mew-crds")?;
    let rendered = objects(&chart.render(chart.namespace, &[])?)?;
    let mut found: Vec<&Value> = rendered.iter().filter(|o| o["kind"] == "CustomResourceDefinition").collect();
    for (file, crd) in mew_crds::generate::definitions() {
        let yaml = mew_crds::generate::yaml(&crd);
        let again = "`mew crds --write charts/mew-crds/files` writes them";
        ensure!(chart.read(&format!("files/{file}"))? == yaml, "files/{file} is another one now; {again}");
        let mut expected: Value = serde_saphyr::from_str(&yaml).map_err(|e| anyhow!("{e}"))?;
        let at = found.iter().position(|o| o["metadata"]["name"] == expected["metadata"]["name"]);
        let o = found.remove(at.with_context(|| format!("{file} is not rendered"))?);
        let annotations = &o["metadata"]["annotations"];
        ensure!(annotations["helm.sh/resource-policy"] == "keep", "{file} would go with the chart");
        ensure!(annotations["federation.mew.dev/crd-version"] == VERSION, "{file} has no version: {annotations}");
        for added in ["annotations", "labels"] {
            expected["metadata"][added] = o["metadata"][added].clone();
        }
        ensure!(*o == expected, "{file} is rendered as something else: {o}");
    }
    ensure!(found.is_empty(), "and {}", found.iter().map(|o| id(o)).collect::<Vec<_>>().join(", "));
    Ok(())
}
