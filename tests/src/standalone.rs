//! A standalone side: an operator on a directory of manifests, and an agent that a test ends and starts as it likes.

use crate::http::{get, post};
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

    fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
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

    pub fn start_operator(&mut self) -> Result<()> {
        let (manifests, state) = (self.manifests().display().to_string(), self.state().display().to_string());
        let args = ["run", "--manifests", &manifests, "--state", &state, "--namespace", &self.namespace];
        let c = mew(args.into_iter().chain(["--trust-domain", &self.trust_domain]))?;
        self.operator = Some(Process::start("operator", c, &self.dir)?);
        Ok(())
    }

    /// Starts the agent, with a failpoint if one is given. Does not wait.
    pub fn start_agent(&mut self, failpoint: Option<&str>) -> Result<()> {
        let variables: Vec<_> = failpoint.into_iter().map(|f| ("MEW_FAILPOINT", f)).collect();
        self.start_agent_with_env(&variables)
    }

    /// Starts the agent with these variables. Does not wait.
    pub fn start_agent_with_env(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        let at = |port: u16| format!("127.0.0.1:{port}");
        let socket = self.state().join("operator.sock");
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
/// second. `more` goes into the specs of both Remotes. Nothing is declared to flow.
pub fn connect(source: &Side, sink: &Side, types: &[&str], more: &str) -> Result<()> {
    source.give_trust(sink)?;
    sink.give_trust(source)?;
    for (side, other, mode, permission, operation) in
        [(source, sink, "Dial", "canReceive", "Export"), (sink, source, "Accept", "canSend", "Import")]
    {
        side.declare("remote.yaml", &remote(side, other, mode, permission, types, more))?;
        side.declare("policy.yaml", &policy(side, other, operation, types))?;
    }
    Ok(())
}

fn remote(side: &Side, other: &Side, mode: &str, permission: &str, types: &[&str], more: &str) -> String {
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

fn policy(side: &Side, other: &Side, operation: &str, types: &[&str]) -> String {
    format!(
        "apiVersion: federation.mew.dev/v1alpha1
kind: FederationPolicy
metadata: {{name: tasks, namespace: {namespace}}}
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
