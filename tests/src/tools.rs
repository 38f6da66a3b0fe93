//! helm, given or built once by Go; and of the module `tests/tools` what others read our objects with.

use crate::dirs::scratch;
use crate::go::{self, Module};
use crate::output::output_within;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
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

const FLUX: &str = "github.com/fluxcd/kustomize-controller";
/// Of the kinds, in its module.
const DEFINITIONS: &str = "config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml";

/// Flux's kustomize-controller.
pub struct Flux {
    pub controller: PathBuf,
    /// The CustomResourceDefinition of Kustomizations.
    pub definitions: PathBuf,
}

pub fn flux() -> Result<Flux> {
    let (module, bin) = (module(), go::directory("tools")?);
    let controller = go::built_of(&module, &bin, "-s -w", ("kustomize-controller", FLUX, "6 minutes"))?;
    let gomod = fs::read_to_string(module.join("go.mod"))?;
    // Beside the program: Go's cache of modules may be emptied without it.
    let definitions = go::built_once(&bin, "kustomizations.yaml", &gomod, "a second", |part| {
        let mut c = go::go(&module, go::FLAGS);
        c.args(["mod", "download", "-json", FLUX]);
        let told: Value = serde_json::from_str(&output_within(c, "", go::BUILD)?)?;
        let dir = told["Dir"].as_str().context("go mod download names no directory")?;
        // Not copied with its rights: files of modules cannot be written.
        fs::write(part, fs::read(Path::new(dir).join(DEFINITIONS))?).context(DEFINITIONS)
    })?;
    Ok(Flux { controller, definitions })
}

/// It makes metrics of objects.
pub fn kube_state_metrics() -> Result<PathBuf> {
    let program = ("kube-state-metrics", "k8s.io/kube-state-metrics/v2", "2 minutes");
    go::built_of(&module(), &go::directory("tools")?, "-s -w", program)
}

fn module() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools")
}
