//! What the demo does, step by step, and what it says.

use super::check::compare;
use super::children::{Children, ports_free};
use crate::client::{Kernel, standalone_objects};
use crate::get::table;
use crate::objects::{Kind, json_path};
use crate::out;
use crate::statements::{TOGETHER, load_csv};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::Command;

struct Side {
    name: &'static str,
    domain: &'static str,
    api: u16,
    federation: u16,
    health: u16,
}

const EAST: Side = Side { name: "us-east", domain: "east.example", api: 9000, federation: 9001, health: 9464 };
const WEST: Side = Side { name: "us-west", domain: "west.example", api: 9100, federation: 9101, health: 9564 };
const NAMESPACE: &str = "flights";
/// Everything below takes a second or two; this is for a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(50);

pub struct Demo {
    dir: PathBuf,
    examples: PathBuf,
    pub children: Children,
}

impl Demo {
    pub fn new(dir: PathBuf, examples: PathBuf) -> Self {
        Demo { dir, examples, children: Children::default() }
    }

    fn state(&self, s: &Side) -> PathBuf {
        self.dir.join(s.name).join("operator")
    }

    /// Tells it; true if everything arrived.
    pub async fn tell(&mut self, once: bool) -> Result<bool> {
        let started = Instant::now();
        ports_free(&[
            (EAST.api, "client API of us-east"),
            (EAST.federation, "federation port of us-east"),
            (EAST.health, "health of us-east"),
            (WEST.api, "client API of us-west"),
            (WEST.federation, "federation port of us-west"),
            (WEST.health, "health of us-west"),
        ])?;
        say("1", "Two operators start; their trust domains exchange roots (mew trust export | mew trust import)");
        for s in [&EAST, &WEST] {
            self.start_operator(s).await?;
        }
        self.exchange_trust().await?;
        say("2", "Two agents start, as processes of their own");
        for s in [&EAST, &WEST] {
            self.start_agent(s)?;
        }
        let east = self.kernel(&EAST).await?;
        let west = self.kernel(&WEST).await?;
        note(&format!("us-east  {}  applications :{}  peers :{}", EAST.domain, EAST.api, EAST.federation));
        note(&format!("us-west  {}  applications :{}  peers :{}", WEST.domain, WEST.api, WEST.federation));
        say("3", "Airports and flights of 2008 are loaded into us-east, and flow to us-west at the same time");
        self.load(&east).await?;
        say("4", "The declarations are in force; the data arrives");
        self.wait_ready().await?;
        // Ready means there is no lag: what the status claims is checked once, not waited for.
        let (lines, equal) = compare(&east, &west).await?;
        lines.iter().for_each(|l| note(l));
        say("5", "What `mew get remotes,syncs,policies` says in the east, and in the west");
        for s in [&EAST, &WEST] {
            self.tables(s).await?;
        }
        say("6", "A live change in the east, seen in the west");
        self.live_change(&east, &west).await?;
        say("7", "A flow that no policy allows");
        self.denied().await?;
        out::line(format_args!(
            "\nDone after {:.1} s. Everything that is declared has arrived; nothing else has.",
            started.elapsed().as_secs_f32()
        ));
        if once {
            return Ok(equal);
        }
        self.next_steps();
        loop {
            self.children.check()?;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn exchange_trust(&self) -> Result<()> {
        let exe = std::env::current_exe()?;
        for (from, to) in [(&EAST, &WEST), (&WEST, &EAST)] {
            let file = self.dir.join(format!("{}-trust.yaml", from.name));
            let address = format!("127.0.0.1:{}", from.federation);
            let state = self.state(from);
            let out = Command::new(&exe)
                .args([
                    "trust",
                    "export",
                    "--kernel",
                    from.name,
                    "--address",
                    &address,
                    "--trust-domain",
                    from.domain,
                    "--namespace",
                    NAMESPACE,
                    "--state",
                ])
                .arg(&state)
                .output()
                .await?;
            succeeded("mew trust export", &out)?;
            std::fs::write(&file, &out.stdout)?;
            let state = self.state(to);
            let out = Command::new(&exe).args(["trust", "import", "--state"]).arg(&state).arg(&file).output().await?;
            succeeded("mew trust import", &out)?;
            note(&format!("{} → {}: {}", from.domain, to.domain, String::from_utf8_lossy(&out.stdout).trim()));
        }
        Ok(())
    }

    /// And waits until it has its CA.
    async fn start_operator(&mut self, s: &Side) -> Result<()> {
        let (logs, state) = (self.dir.clone(), self.state(s));
        let run = [
            "run",
            "--manifests",
            &text(&self.examples.join(s.name)),
            "--state",
            &text(&state),
            "--namespace",
            NAMESPACE,
            "--trust-domain",
            s.domain,
        ]
        .map(str::to_owned);
        self.children.start(&format!("operator-{}", s.name), &run, &logs)?;
        let socket = mew_files::socket(&state);
        self.until(&format!("the operator of {} is there", s.name), async |_| Ok(socket.exists().then_some(()))).await
    }

    fn start_agent(&mut self, s: &Side) -> Result<()> {
        let logs = self.dir.clone();
        let agent = [
            "agent",
            "--kernel",
            s.name,
            "--data",
            &text(&self.dir.join(s.name).join("data")),
            "--ontology",
            &text(&self.examples.join("flights.ontology")),
            "--operator",
            &format!("unix:{}", mew_files::socket(&self.state(s)).display()),
            "--listen",
            &format!("127.0.0.1:{}", s.api),
            "--federation",
            &format!("127.0.0.1:{}", s.federation),
            "--health",
            &format!("127.0.0.1:{}", s.health),
        ]
        .map(str::to_owned);
        self.children.start(&format!("agent-{}", s.name), &agent, &logs)
    }

    /// Asks again until it answers or the time is over.
    async fn until<T, F: AsyncFnMut(&mut Self) -> Result<Option<T>>>(&mut self, what: &str, mut f: F) -> Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            self.children.check()?;
            if let Some(t) = f(self).await? {
                return Ok(t);
            }
            if Instant::now() > end {
                bail!("{what}: not after {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn kernel(&mut self, s: &Side) -> Result<Kernel> {
        let address = format!("127.0.0.1:{}", s.api);
        self.until(&format!("the kernel {} answers", s.name), async |_| match Kernel::connect(&address).await {
            Ok(k) => Ok(k.rows("MATCH s: State RETURN COUNT(s)").await.is_ok().then_some(k)),
            Err(_) => Ok(None),
        })
        .await
    }

    async fn load(&self, k: &Kernel) -> Result<()> {
        let t = Instant::now();
        let data = self.examples.join("data");
        let airports = data.join("airports.csv");
        let states = states(&airports, &self.dir)?;
        let floats = ["latitude".to_owned(), "longitude".to_owned()];
        let mut n = load_csv(k, &states, "SPAWN State {code = $state}", &[], &[], true).await?;
        n += load_csv(
            k,
            &airports,
            "MATCH s: State WHERE s.code = $state \
             SPAWN a: Airport {iata = $iata, name = $name, city = $city, country = $country, latitude = $latitude, longitude = $longitude} \
             LINK located_in(a, s)",
            &[],
            &floats,
            true,
        )
        .await?;
        n += load_csv(
            k,
            &data.join("flights.csv"),
            "MATCH a: Airport, b: Airport WHERE a.iata = $origin and b.iata = $destination LINK flight(a, b) {count = $count}",
            &["count".to_owned()],
            &[],
            true,
        )
        .await?;
        for (airport, finding) in
            [("ATL", "runway lights replaced"), ("ORD", "fence repaired"), ("DEN", "nothing to report")]
        {
            k.execute(
                &format!("SPAWN Inspection {{airport = \"{airport}\", finding = \"{finding}\"}}"),
                &Default::default(),
            )
            .await?;
        }
        note(&format!("{n} rows, in durable transactions of {TOGETHER}, in {:.1} s", t.elapsed().as_secs_f32()));
        Ok(())
    }

    async fn objects(&self, s: &Side, kind: &str) -> Result<Vec<Value>> {
        standalone_objects(&self.state(s), kind, "").await
    }

    /// Waits until the Syncs of the east that may be ready are, and shows how far they are meanwhile.
    async fn wait_ready(&mut self) -> Result<()> {
        let mut line = Line::default();
        self.until("the syncs are ready", async |d| {
            let syncs = d.objects(&EAST, "syncs").await?;
            let state = |o: &Value| {
                let f = |p: &str| json_path(o, p).and_then(Value::as_str).unwrap_or("-").to_owned();
                (f(".metadata.name"), f(r#".status.conditions[?(@.type=="Ready")].reason"#), f(".status.initial"))
            };
            let all: Vec<_> = syncs.iter().map(state).filter(|(n, ..)| n != "inspections").collect();
            line.show(&all.iter().map(|(n, r, i)| format!("{n}: {r} {i}")).collect::<Vec<_>>().join("   "));
            Ok((!all.is_empty() && all.iter().all(|(_, r, _)| r == "InSync")).then_some(()))
        })
        .await?;
        line.end();
        Ok(())
    }

    async fn tables(&self, s: &Side) -> Result<()> {
        out::line("");
        for (kind, k) in [("remotes", Kind::Remote), ("syncs", Kind::Sync), ("policies", Kind::Policy)] {
            let objects = self.objects(s, kind).await?;
            if !objects.is_empty() {
                out::line(table(k, &objects, false, true, false) + "\n");
            }
        }
        Ok(())
    }

    async fn live_change(&mut self, east: &Kernel, west: &Kernel) -> Result<()> {
        let name = "Hartsfield-Jackson Atlanta International";
        let t = Instant::now();
        east.execute(&format!("MATCH a: Airport WHERE a.iata = \"ATL\" SET a.name = \"{name}\""), &Default::default())
            .await?;
        let written = t.elapsed();
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let rows = west.rows("MATCH a: Airport WHERE a.iata = \"ATL\" RETURN a.name").await?;
            if rows.first().and_then(|r| r.first()).is_some_and(|v| v.to_string().contains(name)) {
                note(&format!("ATL is now {name:?} in the west"));
                note(&format!(
                    "durable in the east after {:.1} ms, visible to applications in the west {:.1} ms later",
                    ms(written),
                    ms(t.elapsed() - written)
                ));
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        bail!("the change did not arrive");
    }

    async fn denied(&mut self) -> Result<()> {
        let syncs = self.objects(&EAST, "syncs").await?;
        let o = syncs
            .iter()
            .find(|o| json_path(o, ".metadata.name").and_then(Value::as_str) == Some("inspections"))
            .context("the sync inspections is not there")?;
        let ready = json_path(o, r#".status.conditions[?(@.type=="Ready")]"#).context("it has no status")?;
        note(&format!(
            "sync inspections: Ready={} reason {}",
            ready["status"].as_str().unwrap_or(""),
            ready["reason"].as_str().unwrap_or("")
        ));
        note(ready["message"].as_str().unwrap_or(""));
        if ready["reason"] != "PolicyDenied" {
            bail!("expected PolicyDenied");
        }
        Ok(())
    }

    fn next_steps(&self) {
        let exe = std::env::current_exe().map(|p| p.display().to_string()).unwrap_or_else(|_| "mew".into());
        let state = self.state(&EAST).display().to_string();
        out::line(format_args!(
            "
It keeps running; Ctrl-C ends it. In another terminal, try:

  {exe} query --address 127.0.0.1:{west} 'MATCH a: Airport, b: Airport, flight(a, b) AS f WHERE a.iata = \"SEA\" RETURN b.city, f.count ORDER BY f.count DESC LIMIT 5'
  {exe} exec  --address 127.0.0.1:{east} 'MATCH a: Airport WHERE a.iata = \"SEA\" SET a.country = \"Elsewhere\"'    # leaves the pattern: gone in the west
  {exe} describe sync inspections --state {state}
  {exe} get syncs -o wide --state {state}
  curl -s localhost:{east}/v1/execute -H 'Content-Type: application/json' -d '{{\"text\": \"MATCH s: State RETURN COUNT(s)\"}}'
",
            west = WEST.api,
            east = EAST.api,
        ));
    }
}

fn text(p: &Path) -> String {
    p.display().to_string()
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

fn say(n: &str, text: &str) {
    out::line(format_args!("\n{n}. {text}"));
}

fn note(text: &str) {
    out::line(format_args!("   {text}"));
}

fn succeeded(what: &str, out: &std::process::Output) -> Result<()> {
    if !out.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}

/// The states that occur among the airports, as a file of their own.
fn states(airports: &Path, dir: &Path) -> Result<PathBuf> {
    let mut reader = csv::Reader::from_path(airports).with_context(|| airports.display().to_string())?;
    let column = reader.headers()?.iter().position(|h| h == "state").context("no column state")?;
    let mut all = std::collections::BTreeSet::new();
    for r in reader.records() {
        all.insert(r?.get(column).unwrap_or("").to_owned());
    }
    let path = dir.join("states.csv");
    std::fs::write(&path, format!("state\n{}\n", all.into_iter().collect::<Vec<_>>().join("\n")))?;
    Ok(path)
}

/// A line that changes in place on a terminal, and only when it says something new elsewhere.
#[derive(Default)]
struct Line(String);

impl Line {
    fn show(&mut self, text: &str) {
        if self.0 == text {
            return;
        }
        self.0 = text.to_owned();
        if std::io::stdout().is_terminal() {
            out::text(format_args!("\r   {text:<100}"));
        } else {
            note(text);
        }
    }

    fn end(&self) {
        if std::io::stdout().is_terminal() {
            out::line("");
        }
    }
}
