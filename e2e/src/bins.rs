//! The programs of a cluster. Where there is an engine they are the user's own; elsewhere all are built from Go
//! modules, once, into the cache that the tests use too.

use crate::engine::Engine;
use crate::prepare::Tools;
use crate::run::{in_path, output_within};
use crate::steps::step;
use anyhow::{Context, Result, ensure};
use mew_tests::assets::{kube_assets, version_flags};
use mew_tests::dirs::{cache, root};
use mew_tests::go::{BUILD, FLAGS, Module, built_once, directory, finish, go, is_built};
use mew_tests::tools;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of the cache that the tests build their API server into.
const BIN: &str = "bin";
const KIND: &str = "v0.33.0";
/// What kind and kubeadm ask for, each in its version above and in `tests/kube/go.mod`.
const CONTAINERD: &str = "v2.3.4";
const COREDNS: &str = "v1.14.2";
const LOCAL_PATH: &str = "v0.0.30";

static KIND_ITSELF: Module = Module::new("kind", "sigs.k8s.io/kind", KIND, "10 seconds");
/// One of containerd's three programs.
const fn of_containerd(name: &'static str, package: &'static str) -> Module {
    Module {
        tags: "no_aufs no_zfs no_btrfs no_devmapper",
        ldflags: "-X github.com/containerd/containerd/v2/version.Version=v2.3.4",
        ..Module::new(name, package, CONTAINERD, "2 minutes")
    }
}
static IN_NODES: [Module; 5] = [
    of_containerd("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    of_containerd("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
    of_containerd("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
    Module::new("coredns", "github.com/coredns/coredns", COREDNS, "4 minutes"),
    Module::new("local-path-provisioner", "github.com/rancher/local-path-provisioner", LOCAL_PATH, "3 minutes"),
];
/// Of the module `tests/kube`, beside what the tests build of it.
static OF_KUBERNETES: [(&str, &str); 5] = [
    ("kube-controller-manager", "a minute"),
    ("kube-scheduler", "10 seconds"),
    ("kube-proxy", "10 seconds"),
    ("kubelet", "20 seconds"),
    ("kubeadm", "15 seconds"),
];

pub fn kind(engine: Engine) -> Result<PathBuf> {
    match in_path(KIND_ITSELF.name).filter(|_| engine != Engine::Bare) {
        Some(k) => Ok(k),
        None => KIND_ITSELF.installed(&directory(BIN)?),
    }
}

/// The user's, and what is missing built. With the node image that is built here all are: they must fit it.
pub fn tools(engine: Engine, mew: &Path) -> Result<Tools> {
    let users = |name: &str| in_path(name).filter(|_| engine != Engine::Bare);
    let kubectl = match users("kubectl") {
        Some(k) => k,
        None => step("kubectl", || Ok(kube_assets().kubectl.clone()))?,
    };
    let helm = match users("helm") {
        Some(h) => h,
        None => step("helm", || Ok(PathBuf::from(tools::helm().get_program())))?,
    };
    Ok(Tools { kind: kind(engine)?, kubectl, helm, mew: mew.to_owned() })
}

/// The directory with everything that a node image is made of, and what it was all built from.
pub fn in_nodes() -> Result<(PathBuf, String)> {
    ensure!(
        env::var_os("KUBEBUILDER_ASSETS").is_none_or(|d| d.is_empty()),
        "KUBEBUILDER_ASSETS is set; a node image takes its programs from tests/kube alone"
    );
    kube_assets();
    let bin = directory(BIN)?;
    for m in &IN_NODES {
        m.installed(&bin)?;
    }
    let recipe = of_kubernetes(&bin)?;
    let modules: Vec<String> = IN_NODES.iter().chain([&KIND_ITSELF]).map(Module::recipe).collect();
    Ok((bin, format!("{recipe}\n{}", modules.join("\n"))))
}

/// `v1.36.3`, as `tests/kube/go.mod` says.
pub fn kubernetes_version() -> Result<String> {
    let gomod = fs::read_to_string(kube_module().join("go.mod"))?;
    let line = gomod.lines().find_map(|l| l.trim().strip_prefix("k8s.io/kubernetes ")?.split(' ').next());
    Ok(line.context("tests/kube/go.mod requires no k8s.io/kubernetes")?.to_owned())
}

/// Where kind's sources are, which node images are made of.
pub fn kind_sources() -> Result<PathBuf> {
    let mut c = Command::new("go");
    c.current_dir(cache()?).args(["mod", "download", "-json", &format!("sigs.k8s.io/kind@{KIND}")]);
    let told: serde_json::Value = serde_json::from_str(&output_within(c, "", BUILD)?)?;
    Ok(PathBuf::from(told["Dir"].as_str().context("go mod download names no directory")?))
}

fn kube_module() -> PathBuf {
    root().join("tests/kube")
}

/// Builds what is missing of the module `tests/kube`, and returns its recipe. The tests need no kubeadm, so the module
/// does not require what kubeadm needs: a copy of it does.
fn of_kubernetes(bin: &Path) -> Result<String> {
    let module = kube_module();
    let version = kubernetes_version()?;
    let ldflags = version_flags(&version)?;
    // `go get` below changes the copy.
    let flags = format!("{FLAGS} -mod=mod");
    let recipe = format!("{flags}\n{ldflags}\n{}", fs::read_to_string(module.join("go.mod"))?);
    let missing: Vec<_> = OF_KUBERNETES.iter().filter(|(name, _)| !is_built(bin, name, &recipe)).collect();
    if missing.is_empty() {
        return Ok(recipe);
    }
    let copy = bin.join("kube");
    fs::create_dir_all(&copy)?;
    for f in ["go.mod", "go.sum"] {
        fs::copy(module.join(f), copy.join(f))?;
    }
    let mut c = go(&copy, &flags);
    c.args(["get", "-tool", &format!("k8s.io/kubernetes/cmd/kubeadm@{version}")]);
    finish(c)?;
    for (name, takes) in missing {
        built_once(bin, name, &recipe, takes, |part| {
            let mut c = go(&copy, &flags);
            c.args(["build", "-ldflags", &ldflags, "-o"]).arg(part).arg(format!("k8s.io/kubernetes/cmd/{name}"));
            finish(c)
        })?;
    }
    fs::remove_dir_all(&copy)?;
    Ok(recipe)
}
