use super::{Case, mending};
use crate::cluster::Cluster;
use crate::install;
use crate::page::{Step, steps};
use crate::prepare::Archive;
use crate::run::output_within;
use crate::steps::step;
use crate::wait::{PATIENCE, until};
use crate::world::{World, at_both};
use anyhow::{Context, Result, anyhow, ensure};
use mew_image::{archive, single_binary};
use mew_tests::dirs::root;
use serde_json::{Value, json};
use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub const CASE: Case = Case {
    name: "tutorial",
    core: true,
    proves: "docs/two-clusters.md, typed as it is written: every step works and prints what the page shows",
    run,
};

const PAGE: &str = "docs/two-clusters.md";
/// The one before it makes clusters, which the page says to replace for other ones: these are here already.
const FIRST: u32 = 2;
const NAMESPACE: &str = "flights";
/// What the page loads into the nodes.
const IMAGE: &str = concat!("localhost/mew-federation/mew:", env!("CARGO_PKG_VERSION"));
/// Both charts are installed within one step.
const LONGEST: Duration = Duration::from_secs(900);
/// A step may define functions for those after it, as in one shell.
const STATE: &str = "functions.sh";

fn run(w: &mut World) -> Result<()> {
    let page = fs::read_to_string(root().join(PAGE))?;
    let all = steps(&page, FIRST)?;
    ensure!(all.len() >= 20 && all.iter().filter(|s| !s.shows.is_empty()).count() >= 10, "{PAGE} has hardly any steps");
    w.forget_flights();
    let w: &World = w;
    step("take away what a run before this one installed", || at_both(w, clean))?;
    mending(
        || {
            let shell = Shell::new(w, &page)?;
            all.iter().try_for_each(|s| shell.follow(s))
        },
        || at_both(w, clean).map(drop),
    )
}

fn clean(c: &Cluster) -> Result<()> {
    install::take_away(c, &[NAMESPACE])
}

/// Where the page is typed: what it needs is there, under the names that it has there.
struct Shell<'a> {
    world: &'a World,
    dir: PathBuf,
}

impl<'a> Shell<'a> {
    fn new(world: &'a World, page: &str) -> Result<Self> {
        let dir = world.prepared.logs.join("tutorial-shell");
        let bin = dir.join("bin");
        fs::create_dir_all(&bin)?;
        for folder in ["charts", "examples"] {
            symlink(root().join(folder), dir.join(folder))?;
        }
        let tools = &world.prepared.tools;
        for (name, program) in [("kubectl", &tools.kubectl), ("helm", &tools.helm), ("mew", &tools.mew)] {
            symlink(program, bin.join(name))?;
        }
        let shell = Shell { world, dir };
        fs::write(shell.kubeconfig(), shell.contexts()?.to_string())?;
        ensure!(page.contains(IMAGE), "{PAGE} uses another image than {IMAGE}");
        let image = shell.image()?;
        step("load the image under the name that the page gives it", || at_both(world, |c| c.load(&image)))?;
        Ok(shell)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Both clusters in one file, by the contexts of the page.
    fn contexts(&self) -> Result<Value> {
        let (mut clusters, mut users, mut contexts) = (Vec::new(), Vec::new(), Vec::new());
        for (c, name) in self.world.clusters().into_iter().zip(["kind-east", "kind-west"]) {
            let text = c.kubectl(&["config", "view", "--raw", "--flatten", "--minify", "-o", "json"])?;
            let config: Value = serde_json::from_str(&text)?;
            clusters.push(json!({"name": name, "cluster": config["clusters"][0]["cluster"]}));
            users.push(json!({"name": name, "user": config["users"][0]["user"]}));
            contexts.push(json!({"name": name, "context": {"cluster": name, "user": name}}));
        }
        Ok(json!({"apiVersion": "v1", "kind": "Config", "clusters": clusters, "users": users, "contexts": contexts}))
    }

    /// What `cargo run -p mew-image` of the page writes.
    fn image(&self) -> Result<Archive> {
        let file = self.dir.join("mew.tar");
        let mut image = single_binary(&self.world.prepared.tools.mew, "mew", IMAGE)?;
        image.compressed = false; // it travels no further than to a node
        archive::write(&image, &file)?;
        Ok(Archive { name: IMAGE.to_owned(), file })
    }

    /// Types it, and compares what it prints.
    fn follow(&self, s: &Step) -> Result<()> {
        let first = s.script.lines().next().unwrap_or_default();
        step(&format!("{}: {first}", s.heading), || {
            if s.looks { until("what the page shows", PATIENCE, || self.prints(s).map(Some)) } else { self.prints(s) }
        })
    }

    fn prints(&self, s: &Step) -> Result<()> {
        let printed = self.typed(&s.script)?;
        match s.missing(&printed) {
            None => Ok(()),
            Some(line) => Err(anyhow!("the page shows {line:?}, and there is:\n{printed}")),
        }
    }

    /// By somebody who stops at the first failure, and sees what a terminal shows.
    fn typed(&self, script: &str) -> Result<String> {
        let text =
            format!("exec 2>&1\nset -euo pipefail\n[ ! -f {STATE} ] || . ./{STATE}\n{script}\ndeclare -f > {STATE}\n");
        let mut c: Command = self.world.east.command(Path::new("bash"));
        let path = env::var_os("PATH").context("no PATH")?;
        let ours = [self.dir.join("bin")].into_iter().chain(env::split_paths(&path));
        c.current_dir(&self.dir).env("PATH", env::join_paths(ours)?).env("KUBECONFIG", self.kubeconfig());
        c.args(["-c", &text]);
        output_within(c, "", LONGEST)
    }
}
