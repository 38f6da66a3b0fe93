//! Peers behind one address, told apart by the server name: a real proxy that ends no TLS passes sessions on to two kernels,
//! is restarted, and is asked for names that it does not know.

use anyhow::{Context, Result, ensure};
use mew_tests::dirs::scratch;
use mew_tests::haproxy::Haproxy;
use mew_tests::process::progress;
use mew_tests::standalone::{Side, Way, connect, declare_remote};
use mew_tests::wait::until;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const NAMESPACE: &str = "mesh";
const PATIENCE: Duration = Duration::from_secs(60);
const TYPES: [&str; 1] = ["Task"];
const ONTOLOGY: &str = "ontology Mesh {
  node Task { addressee: String, n: Int }
}
";

/// A source, two kernels of two organisations, and the proxy between.
struct Mesh {
    source: Side,
    sinks: [Side; 2],
    proxy: Haproxy,
    written: u64,
}

fn server_name(kernel: &str) -> String {
    format!("{kernel}.mesh.example")
}

/// The proxy's address, and the name to ask it for.
fn endpoint(port: u16, server_name: Option<&str>) -> String {
    let name = server_name.map(|n| format!(", serverName: {n}")).unwrap_or_default();
    format!(
        "  endpoints: [{{host: 127.0.0.1, port: {port}{name}}}]
  timeouts: {{connect: 5s}}
  retry: {{initialInterval: 100ms, maxInterval: 500ms}}
"
    )
}

fn sync(sink: &str) -> String {
    format!(
        "apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {{name: to-{sink}, namespace: {NAMESPACE}}}
spec:
  remoteRef: {{name: {sink}}}
  direction: Push
  match: 't: Task WHERE t.addressee = \"{sink}\"'
"
    )
}

impl Mesh {
    fn start(dir: &Path) -> Result<Self> {
        let ontology = dir.join("mesh.ontology");
        std::fs::write(&ontology, ONTOLOGY)?;
        let side = |kernel: &str, domain: &str| Side::new(dir, NAMESPACE, kernel, domain, &ontology);
        let mut source = side("source", "a.example")?;
        let mut sinks = [side("one", "b.example")?, side("two", "c.example")?];
        let names = sinks.each_ref().map(|s| server_name(&s.kernel));
        let routes = [(names[0].as_str(), sinks[0].federation), (names[1].as_str(), sinks[1].federation)];
        let mut proxy = Haproxy::new(&dir.join("proxy"), &routes)?;
        for (sink, name) in sinks.iter_mut().zip(&names) {
            connect(&mut source, sink, &TYPES, &endpoint(proxy.port, Some(name)))?;
            source.declare(&format!("sync-{}.yaml", sink.kernel), &sync(&sink.kernel))?;
        }
        proxy.start()?;
        let mut m = Mesh { source, sinks, proxy, written: 0 };
        let [one, two] = &mut m.sinks;
        for side in [&mut m.source, one, two] {
            side.start_agent(None)?;
            side.wait_open()?;
        }
        Ok(m)
    }

    /// The source's Remote for the first sink, with another name to ask for.
    fn ask_for(&self, name: Option<&str>) -> Result<()> {
        declare_remote(&self.source, &self.sinks[0], Way::Out, &TYPES, &endpoint(self.proxy.port, name))
    }

    /// Something for each sink is written.
    fn write(&mut self) -> Result<()> {
        self.written += 1;
        for s in &self.sinks {
            let params = json!({"addressee": s.kernel, "n": self.written});
            self.source.execute("SPAWN Task {addressee = $addressee, n = $n}", &params)?;
        }
        Ok(())
    }

    /// Each sink has all that is for it, and nothing else.
    fn all_is_there(&mut self) -> Result<()> {
        for s in &mut self.sinks {
            let (kernel, written) = (s.kernel.clone(), self.written);
            let wanted: Vec<Value> = (1..=written).map(|n| json!([kernel, n])).collect();
            until(&format!("{kernel} has what is for it"), PATIENCE, || {
                s.check()?;
                let rows = s.rows("MATCH t: Task RETURN t.addressee, t.n ORDER BY t.n")?;
                Ok((rows == wanted).then_some(()))
            })?;
        }
        Ok(())
    }

    fn all_ready(&mut self) -> Result<()> {
        for sink in ["one", "two"] {
            self.source.becomes_ready("remotes", sink)?;
            self.source.becomes_ready("syncs", &format!("to-{sink}"))?;
        }
        Ok(())
    }

    fn tail(&self) -> String {
        let all = self.sinks.iter().chain([&self.source]);
        all.map(Side::tail).collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn two_kernels_behind_one_address_are_told_apart_by_name() -> Result<()> {
    let mut m = Mesh::start(&scratch("mesh")?)?;
    let r = scenario(&mut m);
    r.with_context(|| m.tail())
}

fn scenario(m: &mut Mesh) -> Result<()> {
    progress("two kernels through one port");
    m.all_ready()?;
    m.write()?;
    m.all_is_there()?;
    let through = format!("127.0.0.1:{}", m.proxy.port);
    for sink in ["one", "two"] {
        let o = m.source.becomes_ready("remotes", sink)?;
        ensure!(o["status"]["connectedEndpoint"] == through, "{sink} is reached past the proxy: {}", o["status"]);
    }

    progress("the proxy is restarted");
    m.proxy.stop();
    for sink in ["one", "two"] {
        m.source.shows("remotes", sink, "False", "Unreachable")?;
    }
    m.write()?;
    m.proxy.start()?;
    m.all_is_there()?;
    m.all_ready()?;

    progress("a name that the proxy does not know");
    m.ask_for(Some("nobody.mesh.example"))?;
    // What is up stays; the next connection asks for it.
    m.proxy.stop();
    m.source.shows("remotes", "one", "False", "Unreachable")?;
    m.proxy.start()?;
    says(m, "Unreachable", &["the server name nobody.mesh.example", "a proxy that routes by server name"])?;
    m.source.becomes_ready("remotes", "two")?;

    progress("no name at all");
    m.ask_for(None)?;
    says(m, "Unreachable", &["no server name, as the host is an address"])?;

    progress("the name of another kernel");
    let other = server_name("two");
    m.ask_for(Some(&other))?;
    says(m, "IdentityMismatch", &["c.example"])?;

    progress("the right one again");
    m.write()?;
    let right = server_name("one");
    m.ask_for(Some(&right))?;
    m.all_is_there()?;
    m.all_ready()
}

/// What Ready of the first Remote says, in full.
fn says(m: &mut Mesh, reason: &str, parts: &[&str]) -> Result<()> {
    let right = |o: &Value| {
        let all = o["status"]["conditions"].as_array().into_iter().flatten();
        let ready = all.filter(|c| c["type"] == "Ready" && c["status"] == "False" && c["reason"] == reason);
        ready.filter_map(|c| c["message"].as_str()).any(|m| parts.iter().all(|p| m.contains(p)))
    };
    m.source.wait("remotes", "one", &format!("{reason}: {}", parts.join(" … ")), right).map(drop)
}
