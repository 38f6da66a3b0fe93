//! A machine without an engine: Debian's podman in namespaces of its own, and a node image that is built here from Go
//! modules and Debian packages. The suite then runs itself once more inside; the rest is as everywhere.

use crate::bins;
use crate::prepare::Prepared;
use crate::run::{in_path, output, output_within};
use crate::steps::{say, step};
use anyhow::{Context, Result, bail, ensure};
use mew_image::digest;
use mew_tests::dirs::{cache, root};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// What the scripts of `e2e/bare` and podman call.
const PACKAGES: [&str; 17] = [
    "aardvark-dns",
    "catatonit",
    "conntrack",
    "debian-archive-keyring",
    "debootstrap",
    "gcc",
    "gpgv",
    "iproute2",
    "iptables",
    "jq",
    "libc6-dev",
    "netavark",
    "nftables",
    "podman",
    "runc",
    "socat",
    "zstd",
];
/// A slow machine and a slow mirror.
const LONG: Duration = Duration::from_secs(1800);
const REPOSITORY: &str = "localhost/kindest-node";

pub struct Bare {
    dir: PathBuf,
}

impl Bare {
    pub fn new() -> Result<Self> {
        ensure!(cfg!(target_arch = "x86_64"), "the node image is made for x86-64 only; use docker or podman here");
        let dir = cache()?.join("bare");
        fs::create_dir_all(&dir)?;
        Ok(Bare { dir })
    }

    fn script(name: &str) -> PathBuf {
        root().join("e2e/bare").join(name)
    }

    fn namespaces(&self, words: &[&str]) -> Command {
        let mut c = Command::new(Self::script("ns.sh"));
        c.env("MEW_BARE", self.dir.join("podman")).args(words);
        c
    }

    /// Packages, node image, namespaces; returns the image's name as podman in there has it.
    pub fn prepare(&self) -> Result<String> {
        packages()?;
        let (programs, recipe) = bins::in_nodes()?;
        let version = bins::kubernetes_version()?;
        let tag = digest(format!("{version}\n{recipe}\n{}", scripts()?).as_bytes())[..12].to_owned();
        let stored = self.dir.join(format!("node-{tag}.tar.zst"));
        if !stored.exists() {
            step("build the node image (once, about 2 minutes)", || self.build(&programs, &version, &stored))?;
        }
        step("namespaces", || shown(self.namespaces(&["start"])))?;
        let name = format!("{REPOSITORY}:{tag}");
        if output(self.namespaces(&["run", "--", "podman", "image", "exists", &name]), "").is_err() {
            step("import the node image", || self.import(&stored, &name))?;
        }
        Ok(name)
    }

    fn build(&self, programs: &Path, version: &str, stored: &Path) -> Result<()> {
        let work = self.dir.join("work");
        fs::create_dir_all(&work)?;
        let mut c = Command::new(Self::script("build-node-image.sh"));
        c.arg(&work).arg(programs).env("KUBERNETES", version).env("KIND_SOURCES", bins::kind_sources()?);
        c.env("PACK", format!("{} pack", env::current_exe()?.display()));
        shown(c)?;
        for e in fs::read_dir(&self.dir)? {
            let path = e?.path();
            if path.to_string_lossy().ends_with(".tar.zst") {
                fs::remove_file(path)?; // of another recipe
            }
        }
        // A third of the size, and quickly read.
        let part = stored.with_extension("part");
        let mut c = Command::new("zstd");
        c.args(["-q", "-3", "-f", "--rm"]).arg(work.join("node.tar")).arg("-o").arg(&part);
        output_within(c, "", LONG)?;
        Ok(fs::rename(&part, stored)?)
    }

    fn import(&self, stored: &Path, name: &str) -> Result<()> {
        let tar = self.dir.join("node.tar");
        let mut c = Command::new("zstd");
        c.args(["-q", "-d", "-f"]).arg(stored).arg("-o").arg(&tar);
        output_within(c, "", LONG)?;
        let mut c = self.namespaces(&["run", "--", "podman", "import"]);
        for change in [
            r#"ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]"#,
            "ENV container=docker",
            "STOPSIGNAL SIGRTMIN+3",
        ] {
            c.args(["--change", change]);
        }
        c.arg(&tar).arg(name);
        output_within(c, "", LONG)?;
        fs::remove_file(&tar)?;
        let list = self.namespaces(&["run", "--", "podman", "images", "--format", "{{.Repository}}:{{.Tag}}"]);
        for old in output(list, "")?.lines().filter(|l| l.starts_with(REPOSITORY) && *l != name) {
            output(self.namespaces(&["run", "--", "podman", "rmi", old]), "")?;
        }
        Ok(())
    }

    /// Whether an earlier run left its namespaces, and with them perhaps clusters.
    pub fn is_up(&self) -> bool {
        let mut c = self.namespaces(&["run", "--", "true"]);
        c.stdout(Stdio::null()).stderr(Stdio::null());
        c.status().is_ok_and(|s| s.success())
    }

    /// To be given arguments.
    pub fn run_command(&self, program: &Path) -> Command {
        let mut c = self.namespaces(&["run", "--"]);
        c.arg(program);
        c
    }

    /// This program once more, with its own arguments, inside.
    pub fn run_inside(&self, prepared: &Prepared) -> Result<ExitStatus> {
        let file = prepared.logs.join("prepared.json");
        fs::write(&file, serde_json::to_vec(prepared)?)?;
        let mut c = self.run_command(&env::current_exe()?);
        c.args(env::args_os().skip(1)).arg("--inside").arg(&file);
        Ok(c.status()?)
    }

    pub fn stop(&self) -> Result<()> {
        shown(self.namespaces(&["stop"]))
    }

    /// For people who want to look at clusters that were kept.
    pub fn how_to_enter(&self) -> String {
        let dir = self.dir.join("podman");
        format!("MEW_BARE={} {} run -- bash", dir.display(), Self::script("ns.sh").display())
    }
}

/// Runs a script whose words are for whoever watches.
fn shown(mut c: Command) -> Result<()> {
    c.stdin(Stdio::null());
    let status = c.status().with_context(|| format!("{c:?}"))?;
    ensure!(status.success(), "{} failed ({status})", Path::new(c.get_program()).display());
    Ok(())
}

/// All scripts and what they install: a change means another image.
fn scripts() -> Result<String> {
    let mut paths = Vec::new();
    for e in fs::read_dir(root().join("e2e/bare"))? {
        paths.push(e?.path());
    }
    paths.sort();
    let mut all = String::new();
    for p in paths.iter().filter(|p| !p.ends_with("ns.sh")) {
        all.push_str(&fs::read_to_string(p).with_context(|| p.display().to_string())?);
    }
    Ok(all)
}

fn packages() -> Result<()> {
    let is_installed = |p: &&str| {
        let mut c = Command::new("dpkg-query");
        c.args(["-W", "-f", "${db:Status-Status}", *p]);
        output(c, "").is_ok_and(|s| s == "installed")
    };
    let missing: Vec<&str> = PACKAGES.iter().copied().filter(|p| !is_installed(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if in_path("apt-get").is_none() {
        bail!("without an engine these Debian packages are needed: {list}");
    }
    say(&format!("installing {list}"));
    step("install Debian packages", || {
        for words in [
            vec!["update", "-q"],
            ["install", "-y", "-q", "--no-install-recommends"].into_iter().chain(missing).collect(),
        ] {
            let mut c = Command::new("apt-get");
            c.args(words).env("DEBIAN_FRONTEND", "noninteractive");
            output_within(c, "", LONG)?;
        }
        Ok(())
    })
}
