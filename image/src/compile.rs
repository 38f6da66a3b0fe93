//! A static binary that does not show where or when it was built.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The workspace.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

pub fn cargo() -> Command {
    let mut c = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    c.current_dir(root());
    c
}

/// The target of this machine with a C library that can be linked statically.
pub fn target() -> Result<String> {
    match (env::consts::OS, env::consts::ARCH) {
        ("linux", arch @ ("x86_64" | "aarch64")) => Ok(format!("{arch}-unknown-linux-gnu")),
        (os, arch) => bail!(
            "images are built on Linux on x86-64 or AArch64, this is {os} on {arch}; use the Containerfile, or --binary \
             with one from there"
        ),
    }
}

/// Builds a program of the workspace and says where it is. What cargo has to say goes to standard error.
pub fn build(package: &str, bin: &str) -> Result<PathBuf> {
    let target = target()?;
    let out = cargo()
        .args(["build", "--locked", "--profile", "dist", "--message-format", "json-render-diagnostics"])
        .args(["--target", &target, "--package", package, "--bin", bin])
        .env("CARGO_ENCODED_RUSTFLAGS", flags()?.join("\x1f"))
        .env("CARGO_INCREMENTAL", "0")
        // For C compilers and build scripts that would write the time down.
        .env("SOURCE_DATE_EPOCH", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    ensure!(out.status.success(), "{package} cannot be built for {target}");
    let text = String::from_utf8_lossy(&out.stdout);
    let messages = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let mut artifacts = messages.filter(|m| m["reason"] == "compiler-artifact" && m["target"]["name"] == bin);
    let exe = artifacts.find_map(|m| m["executable"].as_str().map(PathBuf::from));
    exe.with_context(|| format!("cargo built no program {bin} of {package}"))
}

/// Linked statically, and without the paths of this machine: panics name files, and every checkout is somewhere else.
/// Of several prefixes that fit the last one counts. (aws-lc, the only C in it, takes its own paths out.)
fn flags() -> Result<Vec<String>> {
    let sysroot =
        output(Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).args(["--print", "sysroot"]))?;
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let mut prefixes = vec![(sysroot.trim().to_owned(), "/rust"), (root().display().to_string(), "/mew")];
    if let Some(h) = home {
        prefixes.push((h.display().to_string(), "/cargo"));
    }
    if let Some(t) = metadata(&["--no-deps"])?["target_directory"].as_str() {
        prefixes.push((t.to_owned(), "/target"));
    }
    let mut all = vec!["-Ctarget-feature=+crt-static".to_owned()];
    all.extend(prefixes.into_iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")));
    Ok(all)
}

/// What cargo knows of the workspace.
pub fn metadata(more: &[&str]) -> Result<Value> {
    let text = output(cargo().args(["metadata", "--locked", "--format-version", "1"]).args(more))?;
    Ok(serde_json::from_str(&text)?)
}

pub fn output(c: &mut Command) -> Result<String> {
    let out = c.stdin(Stdio::null()).output().with_context(|| format!("{c:?}"))?;
    if !out.status.success() {
        bail!("{c:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8(out.stdout)?)
}
