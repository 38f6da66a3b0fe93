//! etcd, kube-apiserver and kubectl: given, or built once from `tests/kube` by Go.

use crate::dirs::cache;
use crate::process::{progress, run};
use anyhow::{Context, Result, bail};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

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
/// A slow machine with an empty module cache.
const BUILD: Duration = Duration::from_secs(3600);
pub(crate) const FLAGS: &str = "-trimpath -buildvcs=false -mod=readonly";

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
    let ldflags = ldflags(&gomod)?;
    let recipe = format!("{FLAGS}\n{ldflags}\n{gomod}");
    built_once("bin", &PROGRAMS, &recipe, |package, part| {
        let mut c = go_build("build", &ldflags);
        c.current_dir(&module).arg("-o").arg(part).arg(package);
        finish(c, package)
    })
}

/// A directory of the cache with these programs (name, package, how long it takes), each made by `build` in the file that it
/// is told, unless it is there already.
pub(crate) fn built_once(
    dir: &str,
    programs: &[(&str, &str, &str)],
    recipe: &str,
    build: impl Fn(&str, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let bin = cache()?.join(dir);
    fs::create_dir_all(&bin)?;
    let lock = File::create(bin.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress("waiting for programs that another test builds …");
            lock.lock()?;
        }
        Err(TryLockError::Error(e)) => return Err(e.into()),
    }
    for (name, package, time) in programs {
        // What a binary was made from is beside it, as text: something else there means to build again.
        let (exe, stamp) = (bin.join(name), bin.join(format!("{name}.recipe")));
        if exe.exists() && fs::read_to_string(&stamp).is_ok_and(|s| s == recipe) {
            continue;
        }
        progress(&format!("building {name} (once, about {time}) …"));
        // A process that was killed while it built must leave no half a binary.
        let part = exe.with_extension("part");
        build(package, &part)?;
        fs::rename(&part, &exe)?;
        fs::write(&stamp, recipe)?;
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

/// `go build` or `go install`, the rest of its arguments to come.
pub(crate) fn go_build(verb: &str, ldflags: &str) -> Command {
    let mut c = Command::new("go");
    c.env("CGO_ENABLED", "0").env("GOFLAGS", FLAGS).env("GOTOOLCHAIN", "local").args([verb, "-ldflags", ldflags]);
    c
}

pub(crate) fn finish(c: Command, package: &str) -> Result<()> {
    let out =
        run(c, "", BUILD).context("Go is needed, or KUBEBUILDER_ASSETS and MEW_HELM must name what it would build")?;
    if !out.status.success() {
        bail!("{package} cannot be built:\n{}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}
