//! Argo CD's health script, run by the Lua that Argo CD runs: what `docs/gitops/health_test.yaml` lists is what comes out.

use anyhow::{Context, Result, ensure};
use mew_tests::dirs::root;
use mlua::serde::SerializeOptions;
use mlua::{Lua, LuaSerdeExt, Table, Value as LuaValue};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

#[derive(Deserialize)]
struct Tests {
    tests: Vec<Test>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Test {
    health_status: Health,
    input_path: String,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Health {
    status: String,
    message: String,
}

fn dir() -> PathBuf {
    root().join("docs/gitops")
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(dir().join(path)).with_context(|| path.to_owned())
}

/// As Argo CD does it: the object is a global, what is null is not there, and the script returns a table.
fn health(script: &str, object: &Value) -> Result<Health> {
    let lua = Lua::new();
    let nothing = SerializeOptions::new().serialize_none_to_null(false).serialize_unit_to_null(false);
    let object: LuaValue = lua.to_value_with(object, nothing)?;
    lua.globals().set("obj", object)?;
    let table: Table = lua.load(script).eval()?;
    Ok(Health { status: table.get("status")?, message: table.get("message")? })
}

#[test]
fn the_script_says_of_each_example_what_is_listed() -> Result<()> {
    let script = read("health.lua")?;
    let all: Tests = serde_saphyr::from_str(&read("health_test.yaml")?)?;
    let mut listed = BTreeSet::new();
    for t in all.tests {
        let object: Value = serde_saphyr::from_str(&read(&t.input_path)?).with_context(|| t.input_path.clone())?;
        assert_eq!(health(&script, &object)?, t.health_status, "{}", t.input_path);
        listed.insert(t.input_path);
    }
    for file in fs::read_dir(dir().join("testdata"))? {
        let name = format!("testdata/{}", file?.file_name().to_string_lossy());
        ensure!(listed.contains(&name), "{name} is in no test");
    }
    Ok(())
}

/// What a health says is one of Argo CD's own words, whatever is missing from an object.
#[test]
fn an_object_with_anything_missing_has_a_health() -> Result<()> {
    const KNOWN: [&str; 4] = ["Healthy", "Progressing", "Degraded", "Suspended"];
    let script = read("health.lua")?;
    for file in fs::read_dir(dir().join("testdata"))? {
        let text = fs::read_to_string(file?.path())?;
        let whole: Value = serde_saphyr::from_str(&text)?;
        let pointers = ["/status", "/status/conditions", "/status/observedGeneration", "/metadata/generation"];
        for pointer in pointers {
            let mut object = whole.clone();
            if let Some(v) = object.pointer_mut(pointer) {
                *v = Value::Null;
            }
            let h = health(&script, &object)?;
            ensure!(KNOWN.contains(&h.status.as_str()), "without {pointer}: {h:?}");
        }
    }
    Ok(())
}
