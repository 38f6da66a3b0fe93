//! Two agents with an operator each, over mTLS on loopback, driven through the gRPC API that applications use.

use crate::kept;
use crate::measure::{cpu_seconds, memory_mb};
use crate::race::{Looking, Reader, Runner, Writer};
use crate::rows::{PROJECTS, Task, belongs, matching, project, project_of, task};
use anyhow::{Context, Result, ensure};
use mew_tests::standalone::{Side, connect};
use mew_wire::kernel_client::KernelClient;
use mew_wire::value::Value as Kind;
use mew_wire::{ExecuteRequest, ExecuteResponse, Row, StatusRequest, Summary, Value};
use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

const NAMESPACE: &str = "bench";
/// Rows of one transaction while loading.
const LOAD: u64 = 2000;
const MAX_MESSAGE: usize = 256 << 20;

pub const ONTOLOGY: &str = r#"ontology Bench {
  node Project {
    code: String [required, unique],
    name: String [required]
  }
  node Task {
    code: String [required, unique],
    title: String [required],
    status: String [in: ["open", "active", "blocked", "review", "done"]],
    priority: Int [0..8],
    assignee: String [required],
    shared: Bool,
    due: Int [>= 0, indexed],
    estimate: Float [>= 0.0],
    version: Int [>= 0],
    note: String?
  }
  edge belongs(task: Task, project: Project)
}
"#;
const TYPES: [&str; 3] = ["Project", "Task", "belongs"];

/// An edge comes along with its task; the project at its other end does not, and has a flow of its own.
const SYNCS: &str = "apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {name: projects, namespace: bench}
spec:
  remoteRef: {name: sink}
  direction: Push
  match: 'p: Project'
---
apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {name: tasks, namespace: bench}
spec:
  remoteRef: {name: sink}
  direction: Push
  match: 't: Task WHERE t.shared = true'
  edges: {mode: Incident}
";
const FLOWS: usize = 2;

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
    statements: Grpc<Channel>,
}

impl Client {
    fn connect(port: u16) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("a runtime")?;
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.tcp_nodelay(true);
        let channel = runtime.block_on(endpoint.connect())?;
        let statements =
            Grpc::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        Ok(Client { runtime, kernel: KernelClient::new(channel), statements })
    }

    fn execute(&mut self, text: &str) -> Result<ExecuteResponse> {
        self.request(Arc::new(ExecuteRequest { text: text.to_owned(), ..Default::default() }))
    }

    fn request(&mut self, r: Arc<ExecuteRequest>) -> Result<ExecuteResponse> {
        let done = self.runtime.block_on(kept::execute(&mut self.statements, r));
        done.map_err(|s| anyhow::anyhow!("{}", s.message()))
    }

    /// One transaction of a statement that runs for each of these rows.
    fn execute_rows(&mut self, text: &str, row_names: Vec<String>, rows: Vec<Row>) -> Result<Summary> {
        let r = ExecuteRequest { text: text.to_owned(), row_names, rows, ..Default::default() };
        Ok(self.request(Arc::new(r))?.summary.unwrap_or_default())
    }

    fn count(&mut self, text: &str) -> Result<u64> {
        let found = self.execute(text)?;
        match found.rows.first().and_then(|r| r.values.first()).and_then(|v| v.value.as_ref()) {
            Some(Kind::Int(n)) => Ok(*n as u64),
            other => anyhow::bail!("a count was answered by {other:?}"),
        }
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
        connect(&mut source, &mut sink, &TYPES, "  retry: {initialInterval: 50ms, maxInterval: 50ms}\n")?;
        for s in [&mut source, &mut sink] {
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
        let of_project = |k: u64| {
            let p = project(k);
            Row { values: [p.id, p.code, p.name].iter().map(|v| text(v)).collect() }
        };
        c.execute_rows(SPAWN_PROJECT, owned(&["id", "code", "name"]), (0..PROJECTS).map(of_project).collect())?;
        for first in (0..n).step_by(LOAD as usize) {
            let ids = first..n.min(first + LOAD);
            let of_task = |i: u64| {
                let t = task(i, 0);
                let own = [text(&t.id), text(&t.code), value(Kind::Bool(t.shared))];
                Row { values: own.into_iter().chain(changing(&t)).collect() }
            };
            c.execute_rows(SPAWN, names(&["id", "code", "shared"]), ids.clone().map(of_task).collect())?;
            let of_edge = |i: u64| {
                let code = project(project_of(i, 0)?).code;
                Some(Row { values: vec![text(&task(i, 0).code), text(&code)] })
            };
            let edges: Vec<Row> = ids.filter_map(of_edge).collect();
            let wanted = edges.len();
            let linked = c.execute_rows(LINK, owned(&["code", "project"]), edges)?.linked;
            ensure!(linked as usize == wanted, "{linked} edges were made, not {wanted}");
        }
        self.loaded = n;
        Ok(())
    }

    fn declare(&mut self) -> Result<()> {
        self.source.declare("syncs.yaml", SYNCS)
    }

    fn copying(&self) -> Result<Looking> {
        let mut c = Client::connect(self.source.api)?;
        Ok(Box::new(move || {
            let s = c.status()?;
            let flows = s["syncs"].as_array().context("a status without Syncs")?;
            Ok(flows.len() == FLOWS && flows.iter().all(|f| f["state"] == "Live"))
        }))
    }

    fn copied(&self) -> Result<u64> {
        let mut c = Client::connect(self.sink.api)?;
        ["p: Project", "t: Task", "belongs(_, _) AS e"]
            .iter()
            .map(|what| c.count(&format!("MATCH {what} RETURN COUNT(*)")))
            .sum()
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
        let of_tasks = |first: u64| {
            let (from, to) = (task(first, 0).code, task(first + STEP, 0).code);
            format!(
                "MATCH t: Task WHERE t.shared = true AND t.code >= {from:?} AND t.code < {to:?} RETURN t.code, t.title, \
                 t.status, t.priority, t.assignee, t.due, t.estimate, t.version, t.note ORDER BY t.code"
            )
        };
        let tasks = (0..self.loaded).step_by(STEP as usize).map(of_tasks);
        let mut compared = 0;
        for text in [ALL_PROJECTS.to_owned(), SHARED_EDGES.to_owned()].into_iter().chain(tasks) {
            let (a, b) = (source.execute(&text)?, sink.execute(&text)?);
            if a.rows != b.rows {
                return Ok(false);
            }
            compared += a.rows.len() as u64;
        }
        let expected = matching(self.loaded);
        ensure!(compared == expected, "{compared} rows and edges were compared, not {expected}");
        Ok(true)
    }
}

const ALL_PROJECTS: &str = "MATCH p: Project RETURN p._sync_id, p.code, p.name ORDER BY p.code";
const SHARED_EDGES: &str = "MATCH t: Task, p: Project, belongs(t, p) AS e WHERE t.shared = true \
                            RETURN t.code, p.code, e._sync_id ORDER BY t.code";
/// A statement with a parameter for each changing attribute, run for many rows: what a prepared UPDATE over arrays is there.
pub const UPDATE: &str = "MATCH t: Task WHERE t.code = $code SET t {title = $title, status = $status, priority = $priority, \
                      assignee = $assignee, due = $due, estimate = $estimate, version = $version, note = $note}";
pub const SPAWN: &str = "SPAWN Task {_sync_id = $id, code = $code, shared = $shared, title = $title, status = $status, \
                     priority = $priority, assignee = $assignee, due = $due, estimate = $estimate, version = $version, note = $note}";
const SPAWN_PROJECT: &str = "SPAWN Project {_sync_id = $id, code = $code, name = $name}";
const LINK: &str = "MATCH p: Project, t: Task WHERE p.code = $project AND t.code = $code LINK belongs(t, p)";
/// The project comes first: a task that belongs to none names none, and is done with when none is found.
const MOVE: &str = "MATCH p: Project, t: Task, belongs(t, _) AS e WHERE p.code = $project AND t.code = $code \
                    UNLINK e LINK belongs(t, p)";
pub const CHANGING: [&str; 8] = ["title", "status", "priority", "assignee", "due", "estimate", "version", "note"];

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn names(first: &[&str]) -> Vec<String> {
    owned(&[first, &CHANGING].concat())
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

struct Update {
    request: Arc<ExecuteRequest>,
    moves: usize,
}

impl Writer for Client {
    fn prepare(&self, ids: &[u64], version: i64) -> Box<dyn Any + Send> {
        let row = |i: &u64| {
            let t = task(*i, version);
            let to = project_of(*i, version).map_or(String::new(), |k| project(k).code);
            Row { values: [text(&t.code), text(&to)].into_iter().chain(changing(&t)).collect() }
        };
        let moves = ids.iter().filter(|i| belongs(**i)).count();
        let text = if moves > 0 { format!("{UPDATE};\n{MOVE}") } else { UPDATE.to_owned() };
        let (row_names, rows) = (names(&["code", "project"]), ids.iter().map(row).collect());
        let request = Arc::new(ExecuteRequest { text, row_names, rows, ..Default::default() });
        Box::new(Update { request, moves })
    }

    fn write(&mut self, update: &(dyn Any + Send)) -> Result<()> {
        let u: &Update = update.downcast_ref().context("not this writer's update")?;
        let (rows, moves) = (u.request.rows.len() as u64, u.moves as u64);
        let did = self.request(u.request.clone())?.summary.unwrap_or_default();
        ensure!(
            (did.set, did.unlinked, did.linked) == (rows, moves, moves),
            "{rows} rows and {moves} of their edges were to be changed: {did:?}"
        );
        Ok(())
    }
}

impl Reader for Client {
    fn version(&mut self, i: u64) -> Result<Option<i64>> {
        let code = task(i, 0).code;
        let text = if belongs(i) {
            format!("MATCH t: Task, p: Project, belongs(t, p) WHERE t.code = {code:?} RETURN t.version, p.code")
        } else {
            format!("MATCH t: Task WHERE t.code = {code:?} RETURN t.version")
        };
        let r = self.execute(&text)?;
        let cell = |k: usize| r.rows.first().and_then(|row| row.values.get(k)).and_then(|v| v.value.as_ref());
        let Some(Kind::Int(version)) = cell(0) else { return Ok(None) };
        let is_there = |k: u64| cell(1) == Some(&Kind::String(project(k).code));
        Ok(project_of(i, *version).is_none_or(is_there).then_some(*version))
    }
}
