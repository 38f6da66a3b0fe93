//! etcd, kube-apiserver and kubectl: given, or built once from `tests/kube` by Go.

use crate::go;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The three programs.
#[derive(Clone, Debug)]
pub struct Assets {
    pub etcd: PathBuf,
    pub kube_apiserver: PathBuf,
    pub kubectl: PathBuf,
}

/// Name, package, and how long the build takes on two cores without Go's cache.
const PROGRAMS: [(&str, &str, &str); 3] = [
    ("etcd", "go.etcd.io/etcd/server/v3", "half a minute"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", "3 minutes"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl", "20 seconds"),
];

/// Panics if there are none and none can be built: nothing can be tested then.
pub fn kube_assets() -> &'static Assets {
    static ASSETS: OnceLock<Result<Assets, String>> = OnceLock::new();
    match ASSETS.get_or_init(|| find().map_err(|e| format!("{e:#}"))) {
        Ok(a) => a,
        Err(e) => panic!("no API server for tests: {e}"),
    }
}

fn find() -> Result<Assets> {
    let bin = match std::env::var_os("KUBEBUILDER_ASSETS").filter(|d| !d.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => built()?,
    };
    let program = |name: &str| {
        let p = bin.join(name);
        if p.exists() { Ok(p) } else { bail!("{} does not exist", p.display()) }
    };
    Ok(Assets { etcd: program("etcd")?, kube_apiserver: program("kube-apiserver")?, kubectl: program("kubectl")? })
}

/// The directory with all three, each of this go.mod.
fn built() -> Result<PathBuf> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("kube");
    let gomod = fs::read_to_string(module.join("go.mod"))?;
    let (ldflags, bin) = (ldflags(&gomod)?, go::directory("bin")?);
    for program in PROGRAMS {
        go::built_of(&module, &bin, &ldflags, program)?;
    }
    Ok(bin)
}

/// Kubernetes reports its version only if the linker is told.
fn ldflags(gomod: &str) -> Result<String> {
    let version = gomod
        .lines()
        .find_map(|l| l.strip_prefix("\tk8s.io/kubernetes ")?.split(' ').next())
        .context("tests/kube/go.mod requires no k8s.io/kubernetes")?;
    version_flags(version)
}

/// What the linker is told for programs of this version of Kubernetes, such as v1.36.3.
pub fn version_flags(version: &str) -> Result<String> {
    let minor = version.split('.').nth(1).context("k8s.io/kubernetes has no minor version")?;
    let mut flags = "-s -w".to_owned();
    for p in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (name, value) in [
            ("gitVersion", version),
            ("gitMajor", "1"),
            ("gitMinor", minor),
            ("gitTreeState", "clean"),
            ("gitCommit", "0000000000000000000000000000000000000000"),
            ("buildDate", "1970-01-01T00:00:00Z"),
        ] {
            flags.push_str(&format!(" -X {p}.{name}={value}"));
        }
    }
    Ok(flags)
}
