//! The charts as the version before this one would have them. Nothing is released yet, so they are made from these: an
//! older number, and without a field and a value that then came later.

use anyhow::{Context, Result, ensure};
use mew_tests::dirs::root;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Older than any version of ours.
pub const VERSION: &str = "0.0.9";
/// The field of Syncs that they do not have.
pub const FIELD: &str = "readyWhen";
/// The argument of the operator that they do not give, from the value that they do not have.
pub const ARGUMENT: &str = "--certificate-lifetime=";
const VALUE: &str = "certificateLifetime";

/// `mew-crds` and `mew-operator`, each in a directory of that name.
pub fn write(dir: &Path) -> Result<()> {
    for chart in ["mew-crds", "mew-operator"] {
        copy(&root().join("charts").join(chart), &dir.join(chart))?;
        edit(&dir.join(chart).join("Chart.yaml"), of_version)?;
    }
    edit(&dir.join("mew-crds/files/syncs.yaml"), |text| without(text, &format!("{FIELD}:")))?;
    let operator = dir.join("mew-operator");
    edit(&operator.join("values.yaml"), |text| without(text, &format!("{VALUE}:")))?;
    edit(&operator.join("values.schema.json"), without_property)?;
    edit(&operator.join("templates/deployment.yaml"), |text| without(text, &format!("- {ARGUMENT}")))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for e in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let (path, name) = e.map(|e| (e.path(), e.file_name()))?;
        match path.is_dir() {
            true => copy(&path, &to.join(name))?,
            false => fs::copy(&path, to.join(name)).map(drop).with_context(|| path.display().to_string())?,
        }
    }
    Ok(())
}

fn edit(path: &Path, f: impl FnOnce(&str) -> Result<String>) -> Result<()> {
    let read = || -> Result<String> { f(&fs::read_to_string(path)?) };
    let text = read().with_context(|| path.display().to_string())?;
    Ok(fs::write(path, text)?)
}

fn of_version(chart: &str) -> Result<String> {
    let mut found = 0;
    let mut text = String::new();
    for line in chart.lines() {
        match line.split_once(": ") {
            Some((key @ ("version" | "appVersion"), _)) => {
                found += 1;
                text.push_str(&format!("{key}: {VERSION}\n"));
            }
            _ => text.push_str(&format!("{line}\n")),
        }
    }
    ensure!(found == 2, "the chart has no version and appVersion of its own");
    Ok(text)
}

/// The text without the only line that begins so, and without what is below it.
fn without(text: &str, beginning: &str) -> Result<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut below = None;
    let mut found = 0;
    let mut out = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with(beginning) {
            found += 1;
            below = Some(indent(line));
            continue;
        }
        if below.is_some_and(|i| indent(line) > i) {
            continue;
        }
        below = None;
        out.push_str(line);
        out.push('\n');
    }
    ensure!(found == 1, "{found} lines begin with {beginning:?}");
    Ok(out)
}

fn without_property(schema: &str) -> Result<String> {
    let mut schema: Value = serde_json::from_str(schema)?;
    let gone = schema["properties"].as_object_mut().and_then(|p| p.remove(VALUE));
    ensure!(gone.is_some(), "the schema has no property {VALUE}");
    Ok(serde_json::to_string_pretty(&schema)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_gets_the_older_number() {
        let text = of_version("apiVersion: v2\nname: mew\nversion: 0.1.0\nappVersion: 0.1.0\n").unwrap();
        assert_eq!(text, "apiVersion: v2\nname: mew\nversion: 0.0.9\nappVersion: 0.0.9\n");
        assert!(of_version("name: mew\nversion: 0.1.0\n").is_err());
    }

    #[test]
    fn a_key_goes_with_what_is_below_it() {
        let text = "a:\n  b:\n    c: 1\n    d:\n    - 2\n  e: 3\n";
        assert_eq!(without(text, "b:").unwrap(), "a:\n  e: 3\n");
        assert_eq!(without(text, "e:").unwrap(), "a:\n  b:\n    c: 1\n    d:\n    - 2\n");
        assert!(without(text, "f:").is_err());
    }

    /// Or the case would upgrade from the charts to themselves.
    #[test]
    fn the_charts_have_what_is_taken_away() {
        let chart = |file: &str| fs::read_to_string(root().join("charts").join(file)).unwrap();
        assert!(without(&chart("mew-crds/files/syncs.yaml"), &format!("{FIELD}:")).is_ok());
        assert!(without(&chart("mew-operator/values.yaml"), &format!("{VALUE}:")).is_ok());
        assert!(without(&chart("mew-operator/templates/deployment.yaml"), &format!("- {ARGUMENT}")).is_ok());
        assert!(without_property(&chart("mew-operator/values.schema.json")).is_ok());
    }
}
