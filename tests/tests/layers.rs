//! The architecture as a test: which crate may use which, and that pure crates have no runtime, client, clock or socket.

use std::path::Path;
use std::process::Command;

/// Crate, folder, and the crates of this workspace that it may use.
const LAYERS: [(&str, &str, &[&str]); 18] = [
    ("mew-model", "agent/model", &[]),
    ("mew-contract", "agent/contract", &[]),
    ("mew-wire", "agent/wire", &[]),
    ("mew-lang", "agent/lang", &["mew-model"]),
    ("mew-store", "agent/store", &["mew-model"]),
    ("mew-kernel", "agent/kernel", &["mew-model", "mew-lang", "mew-store"]),
    ("mew-sync", "agent/sync", &["mew-model", "mew-lang", "mew-store", "mew-kernel", "mew-contract", "mew-wire"]),
    ("mew-tls", "agent/tls", &[]),
    (
        "mew-net",
        "agent/net",
        &["mew-model", "mew-lang", "mew-store", "mew-kernel", "mew-sync", "mew-contract", "mew-wire", "mew-tls"],
    ),
    (
        "mew-agent",
        "agent/daemon",
        &[
            "mew-model",
            "mew-lang",
            "mew-store",
            "mew-kernel",
            "mew-sync",
            "mew-contract",
            "mew-wire",
            "mew-tls",
            "mew-net",
        ],
    ),
    ("mew-crds", "crds", &["mew-contract"]),
    ("mew-plan", "operator/plan", &["mew-crds", "mew-contract", "mew-lang"]),
    ("mew-control", "operator/control", &["mew-contract", "mew-plan", "mew-wire", "mew-tls"]),
    (
        "mew-files",
        "operator/files",
        &["mew-crds", "mew-plan", "mew-control", "mew-contract", "mew-wire", "mew-tls", "mew-lang"],
    ),
    ("mew-inject", "operator/inject", &["mew-crds", "mew-lang"]),
    (
        "mew-kube",
        "operator/kube",
        &["mew-crds", "mew-plan", "mew-inject", "mew-control", "mew-contract", "mew-wire", "mew-tls"],
    ),
    ("mew-cli", "cli", &["*"]),
    ("mew-tests", "tests", &["*"]),
];

/// Crates that take time and randomness as arguments. The kernel and the store wait for other writers and touch a disk that
/// is handed to them; they read no clock and open no socket.
const PURE: [&str; 8] =
    ["mew-model", "mew-contract", "mew-lang", "mew-store", "mew-kernel", "mew-sync", "mew-plan", "mew-inject"];

/// Packages that a pure crate must not even depend on indirectly.
const IMPURE: [&str; 12] = [
    "tokio",
    "tonic",
    "hyper",
    "rustls",
    "kube-client",
    "kube-runtime",
    "axum",
    "rand",
    "socket2",
    "mio",
    "reqwest",
    "getrandom",
];

/// Words that a pure crate must not use: clocks, sockets, threads, randomness.
const FORBIDDEN: [&str; 6] = ["SystemTime", "Instant::now", "std::net", "thread::spawn", "thread::sleep", "getrandom"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn tree(package: &str, extra: &[&str]) -> Vec<String> {
    let out = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["tree", "--offline", "-e", "normal", "--prefix", "none", "-f", "{p}", "-p", package])
        .args(extra)
        .output()
        .expect("cargo tree");
    assert!(out.status.success(), "cargo tree -p {package}: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn crates_use_only_what_their_layer_may() {
    for (name, dir, may) in LAYERS {
        let manifest = std::fs::read_to_string(root().join(dir).join("Cargo.toml")).expect("a manifest");
        let deps = manifest.split("[dependencies]").nth(1).unwrap_or("").split("\n[").next().unwrap_or("");
        for line in deps.lines().filter(|l| l.starts_with("mew-")) {
            let dep = line.split([' ', '.', '=']).next().unwrap_or("");
            assert!(may.contains(&dep) || may == ["*"], "{name} may not use {dep}");
        }
    }
}

#[test]
fn every_crate_has_a_layer() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("the workspace manifest");
    for line in manifest.lines().filter(|l| l.starts_with("mew-") && l.contains("path")) {
        let name = line.split(' ').next().unwrap_or("");
        assert!(
            LAYERS.iter().any(|(n, ..)| *n == name),
            "{name} has no layer; add it to the table and say why in ARCHITECTURE.md"
        );
    }
}

#[test]
fn pure_crates_depend_on_no_runtime_client_or_socket() {
    for p in PURE {
        for dep in tree(p, &[]) {
            // The CRD types come with kube-core, whose own tree is free of clients.
            assert!(!IMPURE.contains(&dep.as_str()), "{p} depends on {dep}");
        }
    }
}

#[test]
fn pure_crates_read_no_clock_and_draw_no_randomness() {
    for (name, dir, _) in LAYERS.iter().filter(|(n, ..)| PURE.contains(n)) {
        let mut files = vec![root().join(dir).join("src")];
        while let Some(f) = files.pop() {
            if f.is_dir() {
                files.extend(std::fs::read_dir(&f).expect("a folder").map(|e| e.expect("an entry").path()));
                continue;
            }
            let text = std::fs::read_to_string(&f).expect("a source file");
            // Tests of a module come last in it, and may do as they like.
            let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or("");
            for (i, line) in product.lines().enumerate() {
                let code = line.split("//").next().unwrap_or("");
                for w in FORBIDDEN {
                    assert!(!code.contains(w), "{name} is pure and uses {w}: {}:{}", f.display(), i + 1);
                }
            }
        }
    }
}

#[test]
fn only_the_tls_crate_configures_rustls() {
    for (name, dir, _) in LAYERS.iter().filter(|(n, ..)| *n != "mew-tls") {
        let manifest = std::fs::read_to_string(root().join(dir).join("Cargo.toml")).expect("a manifest");
        // Some name its types; none may build its own verifier or configuration.
        if manifest.contains("rustls.workspace") {
            let src = root().join(dir).join("src");
            for e in
                std::fs::read_dir(src).expect("sources").map(|e| e.expect("an entry").path()).filter(|p| p.is_file())
            {
                let text = std::fs::read_to_string(&e).expect("a source file");
                assert!(!text.contains("Config::builder"), "{name}: {} configures TLS", e.display());
            }
        }
    }
    // tonic's own TLS would bring its own rules.
    let features = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["tree", "--offline", "-e", "features", "-i", "tonic", "--prefix", "none"])
        .output()
        .expect("cargo tree");
    let text = String::from_utf8_lossy(&features.stdout).into_owned();
    assert!(!text.contains("feature \"tls-") && !text.contains("_tls-any"), "a dependency turns tonic's TLS on");
}
