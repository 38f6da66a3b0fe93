//! helm: given, or built once by Go.

use crate::dirs::scratch;
use crate::go::{self, Module};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Helm reports its version only if the linker is told.
static HELM: Module = Module {
    ldflags: "-X helm.sh/helm/v4/internal/version.version=v4.3.1",
    ..Module::new("helm", "helm.sh/helm/v4/cmd/helm", "v4.3.1", "2 minutes")
};

/// helm without arguments. It sees nothing of what a person has configured. Panics if there is none and none can be built.
pub fn helm() -> Command {
    static FOUND: OnceLock<Result<(PathBuf, PathBuf), String>> = OnceLock::new();
    let (exe, home) = match FOUND.get_or_init(|| find().map_err(|e| format!("{e:#}"))) {
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
        None => HELM.installed(&go::directory("tools")?)?,
    };
    Ok((exe, scratch("helm")?))
}
