//! The end-to-end suite: two kind clusters on this machine, the charts in both, and what must hold then. See README.md.

mod bare;
mod bins;
mod breaks;
mod cases;
mod cluster;
mod cut;
mod dump;
mod engine;
mod faults;
mod install;
mod kernel;
mod late;
mod load;
mod page;
mod pair;
mod prepare;
mod previous;
mod run;
mod side;
mod steps;
mod stop;
mod table;
mod wait;
mod watch;
mod wheel;
mod workload;
mod world;

use anyhow::{Context, Result, bail, ensure};
use bare::Bare;
use cases::{CASES, Case};
use clap::{Parser, Subcommand};
use engine::Engine;
use mew_image::archive::Image;
use mew_image::layer;
use prepare::Prepared;
use serde_json::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use steps::{say, step};
use world::{Soak, World};

/// Seconds, as everybody's soak is who does not say otherwise.
const SOAK: u64 = 600;

#[derive(Parser)]
#[command(about = "Runs MEW Federation on two real clusters, made by kind on this machine")]
struct Args {
    /// Show the cases, and end
    #[arg(long)]
    list: bool,
    /// Only the cases that CI runs
    #[arg(long)]
    core: bool,
    /// Only this case; may be given several times
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// How long the case `soak` lasts
    #[arg(long, value_name = "SECONDS", default_value_t = SOAK)]
    soak: u64,
    /// What befalls the clusters in `soak`; chosen, and printed, if absent
    #[arg(long)]
    seed: Option<u64>,
    /// Leave the clusters; the next run takes them
    #[arg(long)]
    keep: bool,
    /// Take away what an earlier run left, and end
    #[arg(long)]
    clean: bool,
    /// Where the nodes run; found out if absent
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// Image of the nodes, instead of kind's own
    #[arg(long)]
    node_image: Option<String>,
    /// Already in the namespaces, with this prepared
    #[arg(long, hide = true, value_name = "FILE")]
    inside: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Hidden>,
}

#[derive(Subcommand)]
enum Hidden {
    /// Write the image of a directory, for the scripts in `bare`
    #[command(hide = true)]
    Pack { out: PathBuf, name: String, entrypoint: String, root: PathBuf },
}

fn main() -> ExitCode {
    match launch(Args::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn launch(a: Args) -> Result<ExitCode> {
    if let Some(Hidden::Pack { out, name, entrypoint, root }) = &a.command {
        pack(out, name, entrypoint, root)?;
        return Ok(ExitCode::SUCCESS);
    }
    if a.list {
        for c in CASES {
            println!("{:<20} {:<5} {}", c.name, if c.core { "core" } else { "" }, c.proves);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = choose(&a)?;
    stop::listen()?;
    if let Some(file) = &a.inside {
        let prepared: Prepared = serde_json::from_slice(&fs::read(file)?)?;
        return suite(&a, &chosen, prepared);
    }
    let _lock = lock()?;
    let engine = Engine::choose(a.engine)?;
    if a.clean {
        clean(engine)?;
        return Ok(ExitCode::SUCCESS);
    }
    if engine == Engine::Bare {
        in_namespaces(&a)
    } else {
        suite(&a, &chosen, prepare::prepare(engine, a.node_image.clone())?)
    }
}

/// Takes away what is left of an earlier run.
fn clean(engine: Engine) -> Result<()> {
    let bare = if engine == Engine::Bare { Some(Bare::new()?) } else { None };
    if bare.as_ref().is_some_and(|b| !b.is_up()) {
        return Ok(());
    }
    let kind = bins::kind(engine)?;
    for name in world::NAMES {
        let mut c = match &bare {
            Some(b) => b.run_command(&kind),
            None => Command::new(&kind),
        };
        if let Some(p) = engine.provider() {
            c.env("KIND_EXPERIMENTAL_PROVIDER", p);
        }
        c.args(["delete", "cluster", "--name", name]);
        run::output(c, "")?;
    }
    bare.map_or(Ok(()), |b| b.stop())
}

/// The same, inside namespaces.
fn in_namespaces(a: &Args) -> Result<ExitCode> {
    let bare = Bare::new()?;
    let mut prepared = prepare::prepare(Engine::Bare, None)?;
    prepared.node_image = Some(bare.prepare()?);
    let status = bare.run_inside(&prepared)?;
    if a.keep {
        say(&format!("the clusters are in namespaces; to enter: {}", bare.how_to_enter()));
    } else {
        bare.stop()?;
    }
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn choose(a: &Args) -> Result<Vec<&'static Case>> {
    for name in &a.only {
        ensure!(CASES.iter().any(|c| c.name == name), "there is no case {name:?}; --list shows them");
    }
    let wanted = |c: &&Case| (a.only.is_empty() || a.only.iter().any(|n| n == c.name)) && (c.core || !a.core);
    let chosen: Vec<&Case> = CASES.iter().filter(wanted).collect();
    ensure!(!chosen.is_empty(), "no case is left to run");
    Ok(chosen)
}

/// Two runs would take each other's clusters.
fn lock() -> Result<File> {
    let file = File::create(mew_tests::dirs::cache()?.join("e2e.lock"))?;
    if file.try_lock().is_err() {
        bail!("another run of the suite is under way on this machine");
    }
    Ok(file)
}

fn suite(a: &Args, chosen: &[&Case], prepared: Prepared) -> Result<ExitCode> {
    let logs = prepared.logs.clone();
    // A new one each time: what no run has shown yet.
    let seed = a.seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()));
    let mut w = World::new(prepared, Soak { seconds: a.soak, seed });
    let mut failed = Vec::new();
    let started = w.start();
    if started.is_ok() {
        for c in chosen {
            if stop::check().is_err() {
                break;
            }
            if !passes(&mut w, c, &logs.join(c.name)) {
                failed.push(c.name);
            }
        }
    }
    w.stop_watching();
    let gone = if a.keep {
        say(&format!("kubeconfigs: {}/mew-{{east,west}}/kubeconfig", logs.display()));
        Ok(())
    } else {
        step("delete the clusters", || w.delete())
    };
    if !failed.is_empty() {
        say(&format!("failed: {}; logs and objects: {}", failed.join(", "), logs.display()));
        return Ok(ExitCode::FAILURE);
    }
    started?;
    stop::check()?;
    gone?;
    say(&format!("{} cases passed", chosen.len()));
    Ok(ExitCode::SUCCESS)
}

/// Runs one case; what there is to see of a failure is kept.
fn passes(w: &mut World, c: &Case, dir: &Path) -> bool {
    say(&format!("== {}: {}", c.name, c.proves));
    let began = Instant::now();
    dump::begin(w, dir);
    let r = (c.run)(w);
    let seconds = began.elapsed().as_secs_f32();
    match r {
        Ok(()) => say(&format!("ok   {} ({seconds:.1} s)", c.name)),
        Err(e) => {
            say(&format!("FAIL {} ({seconds:.1} s): {e:#}", c.name));
            if let Err(e) = dump::everything(w, dir, &format!("{e:?}")) {
                say(&format!("not everything could be kept: {e:#}"));
            }
            say(&format!("kept: {}", dir.display()));
            return false;
        }
    }
    true
}

fn pack(out: &Path, name: &str, entrypoint: &str, root: &Path) -> Result<()> {
    let entrypoint: Vec<String> = serde_json::from_str(entrypoint).context("the entry point is no list")?;
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let image = Image {
        name: name.to_owned(),
        architecture: "amd64",
        layer: layer::of_directory(root)?,
        compressed: false,
        config: json!({"Entrypoint": entrypoint, "Env": [path], "WorkingDir": "/"}),
    };
    mew_image::archive::write(&image, out)?;
    Ok(())
}
