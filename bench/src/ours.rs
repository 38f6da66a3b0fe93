//! Two agents with an operator each, over mTLS on loopback, driven through the gRPC API that applications use.

use crate::measure::{cpu_seconds, memory_mb};
use crate::race::{Reader, Runner, Writer};
use crate::rows::{Task, task};
use anyhow::{Context, Result, ensure};
use mew_tests::standalone::{Side, connect};
use mew_wire::kernel_client::KernelClient;
use mew_wire::value::Value as Kind;
use mew_wire::{ExecuteRequest, ExecuteResponse, Row, StatusRequest, Value};
use std::any::Any;
use std::path::Path;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};

const NAMESPACE: &str = "bench";
/// Rows of one transaction while loading.
const LOAD: u64 = 2000;
const MAX_MESSAGE: usize = 256 << 20;

pub const ONTOLOGY: &str = r#"ontology Bench {
  node Task {
    code: String [required, unique],
    title: String [required],
    status: String [in: ["open", "active", "blocked", "review", "done"]],
    priority: Int [0..8],
    assignee: String [required],
    shared: Bool,
    due: Int [>= 0],
    estimate: Float [>= 0.0],
    version: Int [>= 0],
    note: String?
  }
}
"#;

const SYNC: &str = "apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {name: tasks, namespace: bench}
spec:
  remoteRef: {name: sink}
  direction: Push
  match: 't: Task WHERE t.shared = true'
";

pub struct Ours {
    pub source: Side,
    pub sink: Side,
    loaded: u64,
}

/// One connection to a kernel.
struct Client {
    /// Its own, and of one thread, as the other side's client has.
    runtime: Runtime,
    kernel: KernelClient<Channel>,
}

impl Client {
    fn connect(port: u16) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("a runtime")?;
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.tcp_nodelay(true);
        let channel = runtime.block_on(endpoint.connect())?;
        let kernel =
            KernelClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        Ok(Client { runtime, kernel })
    }

    fn execute(&mut self, text: &str) -> Result<ExecuteResponse> {
        self.request(ExecuteRequest { text: text.to_owned(), ..Default::default() })
    }

    fn request(&mut self, r: ExecuteRequest) -> Result<ExecuteResponse> {
        let done = self.runtime.block_on(self.kernel.execute(r));
        Ok(done.map_err(|s| anyhow::anyhow!("{}", s.message()))?.into_inner())
    }

    fn status(&mut self) -> Result<serde_json::Value> {
        let r = self.runtime.block_on(self.kernel.status(StatusRequest {}))?.into_inner();
        Ok(serde_json::from_str(&r.json)?)
    }
}

impl Ours {
    /// Both sides run, trust each other and are connected; nothing is declared to flow.
    pub fn start(dir: &Path) -> Result<Self> {
        let ontology = dir.join("bench.ontology");
        std::fs::write(&ontology, ONTOLOGY)?;
        let mut source = Side::new(dir, NAMESPACE, "source", "a.example", &ontology)?;
        let mut sink = Side::new(dir, NAMESPACE, "sink", "b.example", &ontology)?;
        connect(&source, &sink, &["Task"], "  retry: {initialInterval: 50ms, maxInterval: 50ms}\n")?;
        for s in [&mut source, &mut sink] {
            s.start_operator()?;
            s.start_agent(None)?;
        }
        for s in [&mut source, &mut sink] {
            s.wait_open()?;
        }
        let mut o = Ours { source, sink, loaded: 0 };
        let start = std::time::Instant::now();
        let mut c = Client::connect(o.source.api)?;
        crate::measure::elapsed_until(start, "the connection", || {
            o.source.check()?;
            Ok(c.status()?["remotes"][0]["state"] == "Connected")
        })?;
        Ok(o)
    }

    fn agents(&self) -> (Vec<u32>, Vec<u32>) {
        let pid = |s: &Side| s.agent.iter().map(mew_tests::process::Process::pid).collect();
        (pid(&self.source), pid(&self.sink))
    }
}

impl Runner for Ours {
    fn load(&mut self, n: u64) -> Result<()> {
        let mut c = Client::connect(self.source.api)?;
        for first in (0..n).step_by(LOAD as usize) {
            let row = |i: u64| {
                let t = task(i, 0);
                let own = [text(&t.id), text(&t.code), value(Kind::Bool(t.shared))];
                Row { values: own.into_iter().chain(changing(&t)).collect() }
            };
            let rows = (first..n.min(first + LOAD)).map(row).collect();
            let row_names = names(&["id", "code", "shared"]);
            c.request(ExecuteRequest { text: SPAWN.to_owned(), row_names, rows, ..Default::default() })?;
        }
        self.loaded = n;
        Ok(())
    }

    fn declare(&mut self) -> Result<()> {
        self.source.declare("sync.yaml", SYNC)
    }

    fn copied(&mut self) -> Result<Option<u64>> {
        let s = Client::connect(self.source.api)?.status()?;
        let f = &s["syncs"][0];
        if f["state"] != "Live" {
            return Ok(None);
        }
        let rows = Client::connect(self.sink.api)?.execute("MATCH t: Task RETURN COUNT(*)")?;
        match rows.rows.first().and_then(|r| r.values.first()).and_then(|v| v.value.as_ref()) {
            Some(Kind::Int(n)) => Ok(Some(*n as u64)),
            other => anyhow::bail!("a count was answered by {other:?}"),
        }
    }

    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(Client::connect(self.source.api)?))
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        Ok(Box::new(Client::connect(self.sink.api)?))
    }

    fn stop_sink(&mut self) -> Result<()> {
        self.sink.agent = None;
        Ok(())
    }

    fn start_sink(&mut self) -> Result<()> {
        self.sink.start_agent(None)
    }

    fn cpu(&self) -> Result<(f64, f64)> {
        let (a, b) = self.agents();
        Ok((cpu_seconds(&a)?, cpu_seconds(&b)?))
    }

    fn memory(&self) -> Result<(f64, f64)> {
        let (a, b) = self.agents();
        Ok((memory_mb(&a)?, memory_mb(&b)?))
    }

    fn same(&mut self) -> Result<bool> {
        /// Rows of one answer must fit into one message.
        const STEP: u64 = 100_000;
        let (mut source, mut sink) = (Client::connect(self.source.api)?, Client::connect(self.sink.api)?);
        let mut compared = 0;
        for first in (0..self.loaded).step_by(STEP as usize) {
            let (from, to) = (task(first, 0).code, task(first + STEP, 0).code);
            let text = format!(
                "MATCH t: Task WHERE t.shared = true AND t.code >= {from:?} AND t.code < {to:?} RETURN t.code, t.title, \
                 t.status, t.priority, t.assignee, t.due, t.estimate, t.version, t.note ORDER BY t.code"
            );
            let (a, b) = (source.execute(&text)?, sink.execute(&text)?);
            if a.rows != b.rows {
                return Ok(false);
            }
            compared += a.rows.len();
        }
        ensure!(compared > 0, "there is nothing to compare");
        Ok(true)
    }
}

/// A statement with a parameter for each changing attribute, run for many rows: what a prepared UPDATE over arrays is there.
pub const UPDATE: &str = "MATCH t: Task WHERE t.code = $code SET t {title = $title, status = $status, priority = $priority, \
                      assignee = $assignee, due = $due, estimate = $estimate, version = $version, note = $note}";
pub const SPAWN: &str = "SPAWN Task {_sync_id = $id, code = $code, shared = $shared, title = $title, status = $status, \
                     priority = $priority, assignee = $assignee, due = $due, estimate = $estimate, version = $version, note = $note}";
pub const CHANGING: [&str; 8] = ["title", "status", "priority", "assignee", "due", "estimate", "version", "note"];

fn names(first: &[&str]) -> Vec<String> {
    first.iter().chain(&CHANGING).map(|n| (*n).to_owned()).collect()
}

fn value(v: Kind) -> Value {
    Value { value: Some(v) }
}

fn text(s: &str) -> Value {
    value(Kind::String(s.to_owned()))
}

fn changing(t: &Task) -> [Value; 8] {
    [
        text(&t.title),
        text(t.status),
        value(Kind::Int(t.priority)),
        text(&t.assignee),
        value(Kind::Int(t.due)),
        value(Kind::Float(t.estimate)),
        value(Kind::Int(t.version)),
        text(&t.note),
    ]
}

impl Writer for Client {
    fn prepare(&self, ids: &[u64], version: i64) -> Box<dyn Any + Send> {
        let row = |i: &u64| {
            let t = task(*i, version);
            Row { values: [text(&t.code)].into_iter().chain(changing(&t)).collect() }
        };
        let rows = ids.iter().map(row).collect();
        Box::new(ExecuteRequest { text: UPDATE.to_owned(), row_names: names(&["code"]), rows, ..Default::default() })
    }

    fn write(&mut self, update: &(dyn Any + Send)) -> Result<()> {
        let r = update.downcast_ref::<ExecuteRequest>().context("not this writer's update")?;
        let wrote = self.request(r.clone())?.summary.unwrap_or_default().set;
        ensure!(wrote as usize == r.rows.len(), "{wrote} rows were updated, not {}", r.rows.len());
        Ok(())
    }
}

impl Reader for Client {
    fn version(&mut self, i: u64) -> Result<Option<i64>> {
        let code = task(i, 0).code;
        let r = self.execute(&format!("MATCH t: Task WHERE t.code = {code:?} RETURN t.version"))?;
        Ok(r.rows.first().and_then(|r| r.values.first()).and_then(|v| match v.value {
            Some(Kind::Int(n)) => Some(n),
            _ => None,
        }))
    }
}
