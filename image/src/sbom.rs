//! What is in the binary, as CycloneDX 1.5. The same sources give the same text: no time, no random serial number.

use crate::compile::{cargo, metadata, output, root, target};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

/// Name and version.
type Package = (String, String);

/// Of a binary with this digest, built here from this package.
pub fn of(package: &str, binary_digest: &str, built_here: bool) -> Result<Value> {
    let target = target()?;
    let i = Inputs {
        package,
        binary_digest,
        metadata: &metadata(&["--filter-platform", &target])?,
        linked: &linked(package, &target)?,
        checksums: &checksums(&fs::read_to_string(root().join("Cargo.lock"))?),
        runtime: if built_here { runtime()? } else { Vec::new() },
    };
    sbom(&i)
}

struct Inputs<'a> {
    package: &'a str,
    binary_digest: &'a str,
    metadata: &'a Value,
    linked: &'a BTreeSet<Package>,
    checksums: &'a BTreeMap<Package, String>,
    /// What comes with the compiler and the system: no package of cargo, and in the binary all the same.
    runtime: Vec<Value>,
}

/// Packages whose code is linked: features as they are for this package alone, no build scripts, no procedural macros.
/// (`cargo metadata` knows only the features of the whole workspace at once.)
fn linked(package: &str, target: &str) -> Result<BTreeSet<Package>> {
    let args = ["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"];
    let text = output(cargo().args(args).args(["--package", package, "--target", target]))?;
    Ok(text.lines().filter_map(package_of_line).collect())
}

/// Of `name v1.2.3 (somewhere) (*)`.
fn package_of_line(line: &str) -> Option<Package> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    Some((name.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
}

fn checksums(lock: &str) -> BTreeMap<Package, String> {
    let mut out = BTreeMap::new();
    for p in lock.split("[[package]]") {
        let field = |key: &str| {
            let line = p.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(" = \""))?;
            line.strip_suffix('"').map(str::to_owned)
        };
        if let (Some(name), Some(version), Some(sum)) = (field("name"), field("version"), field("checksum")) {
            out.insert((name, version), sum);
        }
    }
    out
}

fn runtime() -> Result<Vec<Value>> {
    let rustc = output(Command::new("rustc").arg("-vV"))?;
    let rust = rustc.lines().find_map(|l| l.strip_prefix("release: ")).context("rustc says no release")?;
    // `ldd (Debian GLIBC 2.36-9) 2.36`
    let ldd = output(Command::new("ldd").arg("--version"))?;
    let glibc = ldd.lines().next().and_then(|l| l.split_whitespace().last()).context("ldd says no version")?;
    Ok(vec![
        json!({
            "type": "library", "bom-ref": format!("rust-std@{rust}"), "name": "rust-std", "version": rust,
            "licenses": [{"expression": "MIT OR Apache-2.0"}],
            "cpe": format!("cpe:2.3:a:rust-lang:rust:{rust}:*:*:*:*:*:*:*"),
        }),
        json!({
            "type": "library", "bom-ref": format!("glibc@{glibc}"), "name": "glibc", "version": glibc,
            "licenses": [{"expression": "LGPL-2.1-or-later"}],
            "cpe": format!("cpe:2.3:a:gnu:glibc:{glibc}:*:*:*:*:*:*:*"),
        }),
    ])
}

fn sbom(i: &Inputs<'_>) -> Result<Value> {
    let all = i.metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let known: BTreeMap<&str, &Value> =
        all.iter().filter(|p| i.linked.contains(&name_of(p))).filter_map(|p| Some((p["id"].as_str()?, p))).collect();
    let root = known.values().find(|p| p["name"] == i.package).context("cargo metadata does not know the package")?;
    let (mut components, mut dependencies) = (Vec::new(), Vec::new());
    for p in known.values() {
        if p["id"] != root["id"] {
            components.push(component(p, "library", i.checksums.get(&name_of(p))));
        }
    }
    for n in i.metadata["resolve"]["nodes"].as_array().into_iter().flatten() {
        let Some(p) = n["id"].as_str().and_then(|id| known.get(id)) else { continue };
        let mut on: BTreeSet<String> = n["deps"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|d| is_normal(d))
            .filter_map(|d| Some(reference(known.get(d["pkg"].as_str()?)?)))
            .collect();
        if p["id"] == root["id"] {
            on.extend(i.runtime.iter().filter_map(|r| r["bom-ref"].as_str().map(str::to_owned)));
        }
        dependencies.push(json!({"ref": reference(p), "dependsOn": on}));
    }
    components.extend(i.runtime.iter().cloned());
    components.sort_by_key(|c| c["bom-ref"].as_str().unwrap_or_default().to_owned());
    dependencies.sort_by_key(|d| d["ref"].as_str().unwrap_or_default().to_owned());
    let digest = i.binary_digest.to_owned();
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {
            "tools": {"components": [
                {"type": "application", "name": "mew-image", "version": env!("CARGO_PKG_VERSION")},
            ]},
            "component": component(root, "application", Some(&digest)),
        },
        "components": components,
        "dependencies": dependencies,
    }))
}

fn name_of(p: &Value) -> Package {
    let text = |k: &str| p[k].as_str().unwrap_or_default().to_owned();
    (text("name"), text("version"))
}

/// Not only for building or testing.
fn is_normal(dependency: &Value) -> bool {
    dependency["dep_kinds"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k["kind"].is_null()))
}

/// Packages of this workspace are in no registry: they get no purl.
fn reference(p: &Value) -> String {
    let (name, version) = name_of(p);
    if p["source"].is_null() { format!("{name}@{version}") } else { format!("pkg:cargo/{name}@{version}") }
}

fn component(p: &Value, kind: &str, sha256: Option<&String>) -> Value {
    let (name, version) = name_of(p);
    let id = reference(p);
    let mut c = json!({"type": kind, "bom-ref": id, "name": name, "version": version});
    if !p["source"].is_null() {
        c["purl"] = json!(id);
    }
    // Old manifests have a slash for "or".
    if let Some(l) = p["license"].as_str() {
        c["licenses"] = json!([{"expression": l.replace('/', " OR ")}]);
    }
    if let Some(sum) = sha256 {
        c["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"
version = 4

[[package]]
name = "left"
version = "1.0.0"
source = "registry+https://example.com"
checksum = "aa11"

[[package]]
name = "app"
version = "0.1.0"
dependencies = [
 "left",
]
"#;

    fn metadata() -> Value {
        let dep = |pkg: &str, kind: Value| json!({"pkg": pkg, "dep_kinds": [{"kind": kind}]});
        json!({
            "packages": [
                {"id": "a", "name": "app", "version": "0.1.0", "source": null, "license": "Apache-2.0"},
                {"id": "l", "name": "left", "version": "1.0.0", "source": "registry", "license": "MIT/Apache-2.0"},
                {"id": "o", "name": "own", "version": "0.1.0", "source": null, "license": "Apache-2.0"},
                {"id": "t", "name": "tester", "version": "3.0.0", "source": "registry", "license": "MIT"},
            ],
            "resolve": {"nodes": [
                {"id": "a", "deps": [dep("l", Value::Null), dep("o", Value::Null), dep("t", json!("dev"))]},
                {"id": "o", "deps": [dep("l", json!("build"))]},
                {"id": "l", "deps": []},
                {"id": "t", "deps": [dep("l", Value::Null)]},
            ]},
        })
    }

    #[test]
    fn only_what_is_linked_is_listed() {
        let tree = "app v0.1.0 (/somewhere)\nown v0.1.0 (/somewhere/own)\nleft v1.0.0\nleft v1.0.0 (*)\n\n";
        let b = sbom(&Inputs {
            package: "app",
            binary_digest: "cc33",
            metadata: &metadata(),
            linked: &tree.lines().filter_map(package_of_line).collect(),
            checksums: &checksums(LOCK),
            runtime: vec![json!({"type": "library", "bom-ref": "glibc@2.36", "name": "glibc"})],
        })
        .unwrap();
        let names: Vec<&str> =
            b["components"].as_array().unwrap().iter().filter_map(|c| c["bom-ref"].as_str()).collect();
        assert_eq!(names, ["glibc@2.36", "own@0.1.0", "pkg:cargo/left@1.0.0"]);
        let left = &b["components"][2];
        assert_eq!(left["licenses"], json!([{"expression": "MIT OR Apache-2.0"}]));
        assert_eq!(left["hashes"], json!([{"alg": "SHA-256", "content": "aa11"}]));
        assert_eq!(b["metadata"]["component"]["hashes"][0]["content"], "cc33");
        let app = json!({"ref": "app@0.1.0", "dependsOn": ["glibc@2.36", "own@0.1.0", "pkg:cargo/left@1.0.0"]});
        assert_eq!(b["dependencies"][0], app);
        assert_eq!(b["dependencies"][1], json!({"ref": "own@0.1.0", "dependsOn": []}));
    }
}
