//! A standalone side: an operator on a directory of manifests, and an agent that a test ends and starts as it likes.

use crate::http::{get, post};
use crate::kstatus::condition;
use crate::ports::free_port;
use crate::process::{Process, mew, mew_once};
use crate::wait::until;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Side {
    pub kernel: String,
    pub trust_domain: String,
    namespace: String,
    dir: PathBuf,
    ontology: PathBuf,
    /// Where applications connect.
    pub api: u16,
    /// Where peers connect.
    pub federation: u16,
    pub health: u16,
    pub operator: Option<Process>,
    pub agent: Option<Process>,
}

impl Side {
    /// Directories and ports; nothing is started.
    pub fn new(dir: &Path, namespace: &str, kernel: &str, trust_domain: &str, ontology: &Path) -> Result<Self> {
        let s = Side {
            kernel: kernel.to_owned(),
            trust_domain: trust_domain.to_owned(),
            namespace: namespace.to_owned(),
            dir: dir.join(kernel),
            ontology: ontology.to_owned(),
            api: free_port()?,
            federation: free_port()?,
            health: free_port()?,
            operator: None,
            agent: None,
        };
        for d in [s.state(), s.manifests()] {
            fs::create_dir_all(&d).with_context(|| d.display().to_string())?;
        }
        Ok(s)
    }

    fn state(&self) -> PathBuf {
        self.dir.join("operator")
    }

    fn socket(&self) -> PathBuf {
        self.state().join("operator.sock")
    }

    fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// Where a test puts certificates as Secrets are mounted; the agent has the directory if it is there when it starts.
    pub fn certificates(&self) -> PathBuf {
        self.dir.join("certificates")
    }

    /// Where the operator keeps its objects: `{remotes, syncs, policies}`, each by `namespace/name`.
    pub fn objects(&self) -> PathBuf {
        self.state().join("objects.json")
    }

    /// Waits until an object (of `remotes`, `syncs` or `policies`) is as it should be; a failure shows its status.
    pub fn wait(&mut self, kinds: &str, name: &str, what: &str, good: impl Fn(&Value) -> bool) -> Result<Value> {
        let (file, key) = (self.objects(), format!("{}/{name}", self.namespace));
        let title = format!("{}: {kinds} {name}: {what}", self.kernel);
        let mut last = Value::Null;
        let r = until(&title, PATIENCE, || {
            self.check()?;
            // Until the operator has written it first.
            let all: Value = fs::read(&file).ok().map_or(Ok(Value::Null), |b| serde_json::from_slice(&b))?;
            last = all[kinds][&key].clone();
            Ok(good(&last).then(|| last.clone()))
        });
        r.with_context(|| last["status"].to_string())
    }

    /// Waits for what Ready says; the message is returned.
    pub fn shows(&mut self, kinds: &str, name: &str, status: &str, reason: &str) -> Result<String> {
        let good = |o: &Value| condition(o, "Ready").is_some_and(|c| c["status"] == status && c["reason"] == reason);
        let o = self.wait(kinds, name, &format!("Ready is {status}, {reason}"), good)?;
        Ok(condition(&o, "Ready").and_then(|c| c["message"].as_str()).unwrap_or_default().to_owned())
    }

    /// Ready about the spec as it is.
    pub fn becomes_ready(&mut self, kinds: &str, name: &str) -> Result<Value> {
        self.wait(kinds, name, "is ready", |o| {
            let current = |c: &Value| c["observedGeneration"] == o["metadata"]["generation"];
            condition(o, "Ready").is_some_and(|c| c["status"] == "True" && current(c))
        })
    }

    pub fn declare(&self, file: &str, yaml: &str) -> Result<()> {
        Ok(fs::write(self.manifests().join(file), yaml)?)
    }

    /// `mew trust export` here, `mew trust import` there.
    pub fn give_trust(&self, to: &Side) -> Result<()> {
        let address = format!("127.0.0.1:{}", self.federation);
        let (here, there) = (self.state().display().to_string(), to.state().display().to_string());
        let export = ["trust", "export", "--kernel", &self.kernel, "--address", &address, "--state", &here];
        let more = ["--trust-domain", &self.trust_domain, "--namespace", &self.namespace];
        let out = mew_once(export.into_iter().chain(more), &[])?;
        let file = self.dir.join("trust.yaml");
        fs::write(&file, out.stdout)?;
        let file = file.display().to_string();
        mew_once(["trust", "import", "--state", &there, &file], &[]).map(|_| ())
    }

    /// `mew trust rotate` here: what it prints, and an error with what it says if it refuses.
    pub fn rotate(&self, args: &[&str]) -> Result<String> {
        let state = self.state().display().to_string();
        let side = ["--state", &state, "--trust-domain", &self.trust_domain];
        let out = mew_once(["trust", "rotate"].into_iter().chain(args.iter().copied()).chain(side), &[])?;
        Ok(String::from_utf8(out.stdout)?)
    }

    /// An object with its status, as `mew get` has it.
    pub fn object(&self, kind: &str, name: &str) -> Result<Value> {
        let state = self.state().display().to_string();
        let out = mew_once(["get", kind, name, "--output", "json", "--state", &state], &[])?;
        serde_json::from_slice(&out.stdout).with_context(|| format!("{kind} {name}"))
    }

    /// And waits until it has its CA and listens.
    pub fn start_operator(&mut self) -> Result<()> {
        let (manifests, state) = (self.manifests().display().to_string(), self.state().display().to_string());
        let args = ["run", "--manifests", &manifests, "--state", &state, "--namespace", &self.namespace];
        let c = mew(args.into_iter().chain(["--trust-domain", &self.trust_domain]))?;
        self.operator = Some(Process::start("operator", c, &self.dir)?);
        let socket = self.socket();
        until(&format!("the operator of {} listens", self.kernel), PATIENCE, || {
            self.check()?;
            Ok(socket.exists().then_some(()))
        })
    }

    /// Starts the agent, with a failpoint if one is given. Does not wait.
    pub fn start_agent(&mut self, failpoint: Option<&str>) -> Result<()> {
        let variables: Vec<_> = failpoint.into_iter().map(|f| ("MEW_FAILPOINT", f)).collect();
        self.start_agent_with_env(&variables)
    }

    /// Starts the agent with these variables. Does not wait.
    pub fn start_agent_with_env(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        let at = |port: u16| format!("127.0.0.1:{port}");
        let socket = self.socket();
        let args = [
            "agent".to_owned(),
            "--kernel".to_owned(),
            self.kernel.clone(),
            "--data".to_owned(),
            self.dir.join("data").display().to_string(),
            "--ontology".to_owned(),
            self.ontology.display().to_string(),
            "--operator".to_owned(),
            format!("unix:{}", socket.display()),
            "--listen".to_owned(),
            at(self.api),
            "--federation".to_owned(),
            at(self.federation),
            "--health".to_owned(),
            at(self.health),
        ];
        let mut c = mew(args)?;
        if self.certificates().exists() {
            c.arg("--certificates").arg(self.certificates());
        }
        c.env_remove("MEW_FAILPOINT").envs(variables.iter().copied());
        self.agent = Some(Process::start("agent", c, &self.dir)?);
        Ok(())
    }

    /// SIGKILL, if it runs.
    pub fn kill_agent(&mut self) {
        if let Some(mut a) = self.agent.take() {
            a.kill();
        }
    }

    /// Fails if a process of this side that should run has ended.
    pub fn check(&mut self) -> Result<()> {
        for p in [&mut self.operator, &mut self.agent].into_iter().flatten() {
            p.check()?;
        }
        Ok(())
    }

    pub fn wait_open(&mut self) -> Result<()> {
        until(&format!("the kernel {} answers", self.kernel), PATIENCE, || {
            self.check()?;
            Ok(self.status().ok().map(|_| ()))
        })
    }

    pub fn execute(&self, text: &str, params: &Value) -> Result<Value> {
        post(self.api, "/v1/execute", &json!({"text": text, "params": params}))
    }

    pub fn rows(&self, text: &str) -> Result<Vec<Value>> {
        let v = self.execute(text, &json!({}))?;
        Ok(v["rows"].as_array().context("an answer without rows")?.clone())
    }

    pub fn status(&self) -> Result<Value> {
        self.json("/v1/status")
    }

    pub fn json(&self, path: &str) -> Result<Value> {
        let (code, text) = get(self.api, path)?;
        if code != 200 {
            bail!("{path}: {code}: {text}");
        }
        Ok(serde_json::from_str(&text)?)
    }

    /// The last lines of the logs.
    pub fn tail(&self) -> String {
        let all = [&self.operator, &self.agent];
        all.into_iter().flatten().map(Process::tail).collect::<Vec<_>>().join("\n")
    }
}

/// Makes two sides of one namespace trust each other, and declares that `types` may go from the first, which dials, to the
/// second. `more` goes into the specs of both Remotes. Nothing is declared to flow. Operators are started that do not run yet:
/// only they make CAs.
pub fn connect(source: &mut Side, sink: &mut Side, types: &[&str], more: &str) -> Result<()> {
    for side in [&mut *source, &mut *sink] {
        if side.operator.is_none() {
            side.start_operator()?;
        }
    }
    let (source, sink) = (&*source, &*sink);
    source.give_trust(sink)?;
    sink.give_trust(source)?;
    for (side, other, way) in [(source, sink, Way::Out), (sink, source, Way::In)] {
        declare_remote(side, other, way, types, more)?;
        side.declare(&format!("policy-{}.yaml", other.kernel), &policy(side, other, way, types))?;
    }
    Ok(())
}

/// Which way data goes; the source dials.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Out,
    In,
}

/// One side's Remote for the other one, or another version of it; it is called as the other side's kernel.
pub fn declare_remote(side: &Side, other: &Side, way: Way, types: &[&str], more: &str) -> Result<()> {
    side.declare(&format!("remote-{}.yaml", other.kernel), &remote(side, other, way, types, more))
}

fn remote(side: &Side, other: &Side, way: Way, types: &[&str], more: &str) -> String {
    let (mode, permission) = match way {
        Way::Out => ("Dial", "canReceive"),
        Way::In => ("Accept", "canSend"),
    };
    let types: Vec<String> = types.iter().map(|t| format!("{{type: {t}}}")).collect();
    format!(
        "apiVersion: federation.mew.dev/v1alpha1
kind: Remote
metadata: {{name: {other}, namespace: {namespace}}}
spec:
  kernelRef: {{name: {kernel}}}
  uri: mew://127.0.0.1:{port}/{namespace}.{other}
  connectionMode: {mode}
  peer:
    trustDomain: {domain}
    trustBundleRefs: [{{kind: ConfigMap, name: {roots}-roots}}]
  permissions:
    {permission}: [{types}]
{more}",
        other = other.kernel,
        namespace = side.namespace,
        kernel = side.kernel,
        port = other.federation,
        domain = other.trust_domain,
        roots = other.trust_domain.replace('.', "-"),
        types = types.join(", "),
    )
}

fn policy(side: &Side, other: &Side, way: Way, types: &[&str]) -> String {
    let operation = if way == Way::Out { "Export" } else { "Import" };
    format!(
        "apiVersion: federation.mew.dev/v1alpha1
kind: FederationPolicy
metadata: {{name: tasks-{kernel}, namespace: {namespace}}}
spec:
  remoteSelector: {{}}
  mode: ExplicitBridging
  allowedKernels: [{{trustDomain: {domain}, kernelIds: [{namespace}.{kernel}]}}]
  rules:
    - name: tasks
      action: Allow
      operations: [{operation}]
      types: [{types}]
",
        namespace = side.namespace,
        domain = other.trust_domain,
        kernel = other.kernel,
        types = types.join(", "),
    )
}
