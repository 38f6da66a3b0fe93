//! What must be there before there are clusters: images and programs. After this no network is needed but that of the
//! clusters.

use crate::bins;
use crate::engine::Engine;
use crate::steps::step;
use anyhow::{Context, Result};
use mew_image::{archive, compile, digest, single_binary};
use mew_tests::dirs::{self, cache};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prepared {
    pub engine: Engine,
    pub tools: Tools,
    pub mew: Archive,
    /// The same program under another tag: what an upgrade upgrades to.
    pub next: Archive,
    /// Its agents know less: what [`OLDER`] says.
    pub older: Archive,
    pub app: Archive,
    /// Absent: kind's own.
    pub node_image: Option<String>,
    /// Logs and dumps of this run.
    pub logs: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tools {
    pub kind: PathBuf,
    pub kubectl: PathBuf,
    pub helm: PathBuf,
    /// What the image holds; it runs here too.
    pub mew: PathBuf,
}

/// Makes an agent refuse these fields as one does that is older than them; see `agent/daemon/src/older.rs`.
const OLDER: &str = "MEW_UNKNOWN_FIELDS=deny,reset";

/// An image that can be loaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Archive {
    /// `localhost/<repository>:<tag>`
    pub name: String,
    pub file: PathBuf,
}

impl Archive {
    pub fn repository_and_tag(&self) -> Result<(&str, &str)> {
        let name = self.name.strip_prefix("localhost/").and_then(|n| n.split_once(':'));
        name.with_context(|| format!("{} is no name of an image of this suite", self.name))
    }
}

pub fn prepare(engine: Engine, node_image: Option<String>) -> Result<Prepared> {
    let logs = fresh_logs()?;
    let mew = step("build mew, static", || compile::build("mew-cli", "mew"))?;
    let app = step("build the suite's application, static", || compile::build("mew-e2e-app", "mew-e2e-app"))?;
    let images = cache()?.join("e2e-images");
    fs::create_dir_all(&images)?;
    let [current, next, older, app] = step("write the images", || {
        Ok([
            image(&images, &mew, "mew", "e2e", &[])?,
            image(&images, &mew, "mew", "next", &[])?,
            image(&images, &mew, "mew", "older", &[OLDER])?,
            image(&images, &app, "mew-e2e-app", "e2e", &[])?,
        ])
    })?;
    keep_only(&images, &[&current, &next, &older, &app])?;
    let tools = bins::tools(engine, &mew)?;
    Ok(Prepared { engine, tools, mew: current, next, older, app, node_image, logs })
}

/// Emptied: a run is about itself.
fn fresh_logs() -> Result<PathBuf> {
    let build = dirs::build()?;
    let dir = build.parent().unwrap_or(&build).join("mew-e2e");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    }
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}

/// The tag names the contents, so that a cluster that was kept never runs an older program under the same name.
fn image(dir: &Path, binary: &Path, name: &str, kind: &str, environment: &[&str]) -> Result<Archive> {
    let bytes = fs::read(binary).with_context(|| binary.display().to_string())?;
    let contents = [bytes.as_slice(), environment.join("\n").as_bytes()].concat();
    let version = format!("{kind}-{}", &digest(&contents)[..12]);
    let (tag, file) = (format!("localhost/{name}:{version}"), dir.join(format!("{name}-{version}.tar")));
    let mut image = single_binary(binary, name, &tag)?;
    image.compressed = false; // it travels no further than to a node
    let variables = image.config["Env"].as_array_mut().context("the image sets no variables")?;
    variables.extend(environment.iter().map(|v| json!(v)));
    archive::write(&image, &file)?;
    Ok(Archive { name: tag, file })
}

fn keep_only(dir: &Path, wanted: &[&Archive]) -> Result<()> {
    for e in fs::read_dir(dir)? {
        let path = e?.path();
        if !wanted.iter().any(|a| a.file == path) {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}
