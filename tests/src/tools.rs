//! helm: given, or built once by Go.

use crate::assets::{FLAGS, built_once, finish, go_build};
use crate::dirs::scratch;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Name, package with its version, and how long the build takes on two cores without Go's cache.
const PROGRAMS: [(&str, &str, &str); 1] = [("helm", "helm.sh/helm/v4/cmd/helm@v4.3.1", "2 minutes")];
/// Helm reports its version only if the linker is told.
const LDFLAGS: &str = "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1";

/// helm without arguments. It sees nothing of what a person has configured. Panics if there is none and none can be built.
pub fn helm() -> Command {
    static HELM: OnceLock<Result<(PathBuf, PathBuf), String>> = OnceLock::new();
    let (exe, home) = match HELM.get_or_init(|| find().map_err(|e| format!("{e:#}"))) {
        Ok(found) => found,
        Err(e) => panic!("no helm for tests: {e}"),
    };
    let mut c = Command::new(exe);
    for v in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        c.env(v, home);
    }
    c.env_remove("KUBECONFIG");
    c
}

fn find() -> Result<(PathBuf, PathBuf)> {
    let exe = match std::env::var_os("MEW_HELM").filter(|p| !p.is_empty()) {
        Some(given) => given.into(),
        None => {
            let recipe = format!("{FLAGS}\n{LDFLAGS}\n{}", PROGRAMS.map(|(_, package, _)| package).join("\n"));
            built_once("tools", &PROGRAMS, &recipe, install)?.join("helm")
        }
    };
    Ok((exe, scratch("helm")?))
}

/// `go install` of a version knows no name for its result but the package's.
fn install(package: &str, part: &Path) -> Result<()> {
    let dir = part.with_extension("install");
    let mut c = go_build("install", LDFLAGS);
    c.env("GOBIN", &dir).arg(package);
    finish(c, package)?;
    let name = package.split('@').next().and_then(|p| p.rsplit('/').next()).context("a package without a name")?;
    fs::rename(dir.join(name), part)?;
    Ok(fs::remove_dir(dir)?)
}
