//! One organisation: an API server, operators and agents as real processes, started by their real command lines.

use crate::apiserver::ApiServer;
use crate::dirs;
use crate::http;
use crate::ports::free_port;
use crate::process::{Process, mew, mew_once};
use crate::small_disk::{self, SmallDisk};
use crate::wait::until;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the operators keep their CA, roots and Lease.
pub const SYSTEM: &str = "mew-system";
/// Everything below takes seconds; this is for a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Cluster {
    pub trust_domain: String,
    pub operators: Vec<Operator>,
    pub api: ApiServer,
}

/// A replica of the operator.
pub struct Operator {
    /// Its name in the Lease.
    pub identity: String,
    /// Where agents attach.
    pub port: u16,
    pub health: u16,
    args: Vec<String>,
    logs: PathBuf,
    process: Option<Process>,
}

/// An agent with its kernel. It is not part of the [`Cluster`]: a test ends and starts it as it likes.
pub struct Agent {
    pub kernel: String,
    pub kernel_id: String,
    /// Where applications connect.
    pub api: u16,
    /// Where peers connect.
    pub federation: u16,
    pub health: u16,
    args: Vec<String>,
    /// Its logs, and its data in `data`.
    logs: PathBuf,
    small_disk: bool,
    process: Option<Process>,
}

impl Cluster {
    /// An API server with the CRDs, and one operator that leads.
    pub fn start(name: &str, trust_domain: &str) -> Result<Self> {
        let mut c = Self::without_operator(name, trust_domain)?;
        c.start_operator()?;
        Ok(c)
    }

    pub fn without_operator(name: &str, trust_domain: &str) -> Result<Self> {
        Self::at(ApiServer::start(name)?, trust_domain)
    }

    /// With the CRDs at this server, and without an operator.
    pub fn at(api: ApiServer, trust_domain: &str) -> Result<Self> {
        install_crds(&api)?;
        api.create_namespace(SYSTEM)?;
        Ok(Cluster { trust_domain: trust_domain.to_owned(), operators: Vec::new(), api })
    }

    /// Starts one more replica, waits until it is ready (it leads, or follows another one), and returns its number.
    pub fn start_operator(&mut self) -> Result<usize> {
        let admin = self.api.kubeconfig();
        self.start_operator_as(&admin, &[])
    }

    /// The same with the rights of another account, and with more arguments.
    pub fn start_operator_as(&mut self, kubeconfig: &Path, more: &[String]) -> Result<usize> {
        let identity = format!("operator-{}", self.operators.len());
        let (port, health) = (free_port()?, free_port()?);
        let args = [
            "operator",
            "--kubeconfig",
            &kubeconfig.display().to_string(),
            "--trust-domain",
            &self.trust_domain,
            "--namespace",
            SYSTEM,
            "--listen",
            &loopback(port),
            "--health",
            &loopback(health),
            "--identity",
            &identity,
        ]
        .map(str::to_owned);
        let args = args.into_iter().chain(more.iter().cloned()).collect();
        let mut o = Operator { identity, port, health, args, logs: self.api.dir().to_owned(), process: None };
        o.start()?;
        self.operators.push(o);
        Ok(self.operators.len() - 1)
    }

    /// The replica that leads.
    pub fn leader(&self) -> Result<&Operator> {
        let i = until("an operator leads", PATIENCE, || Ok(self.operators.iter().position(Operator::leads)))?;
        Ok(&self.operators[i])
    }

    /// Public roots of the trust domain, as the operator publishes them.
    pub fn roots(&self) -> Result<String> {
        let map = self.api.get_json("configmap", SYSTEM, "mew-roots")?;
        Ok(map["data"]["ca.crt"].as_str().context("mew-roots has no ca.crt")?.to_owned())
    }

    /// What this side gives another one to commit, as `mew trust export` prints it.
    pub fn export_trust(&self, namespace: &str, a: &Agent) -> Result<String> {
        let address = loopback(a.federation);
        let args = ["trust", "export", "--kernel", &a.kernel, "--namespace", namespace, "--address", &address];
        let kubeconfig = self.api.kubeconfig();
        let out = mew_once(args, &[("KUBECONFIG", kubeconfig.as_path())])?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(said.contains("fingerprint"), "no fingerprint to confirm: {said}");
        Ok(String::from_utf8(out.stdout)?)
    }

    /// What the other organisation hands over: its roots, as a ConfigMap of this namespace.
    pub fn trust(&self, namespace: &str, other: &Cluster) -> Result<()> {
        let name = format!("{}-roots", other.trust_domain.replace('.', "-"));
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name},
            "data": {"ca.crt": other.roots()?},
        });
        self.api.apply_server_side(&map.to_string()).map(|_| ())
    }

    /// Starts the agent of a kernel as a pod would: with a service account's token for this kernel, the roots of the
    /// operator, and an ontology; waits until its kernel is open. The namespace must exist.
    pub fn start_agent(&self, namespace: &str, kernel: &str, ontology: &Path) -> Result<Agent> {
        let mut a = self.agent(namespace, kernel, ontology)?;
        a.start()?;
        Ok(a)
    }

    /// What [`Cluster::start_agent`] starts, not started yet.
    pub fn agent(&self, namespace: &str, kernel: &str, ontology: &Path) -> Result<Agent> {
        let account = format!("kernel-{kernel}");
        let audience = format!("federation.mew.dev/{}/kernel/{kernel}", self.trust_domain);
        self.api.create_service_account(namespace, &account)?;
        let token = self.api.create_token(namespace, &account, &audience)?;
        let dir = self.api.dir().join(format!("agent-{namespace}-{kernel}"));
        fs::create_dir_all(&dir)?;
        let path = |f: &str| dir.join(f).display().to_string();
        fs::write(path("token"), token)?;
        fs::write(path("ca.crt"), self.roots()?)?;
        let (api, federation, health) = (free_port()?, free_port()?, free_port()?);
        let args = [
            "agent",
            "--kernel",
            kernel,
            "--operator",
            &loopback(self.leader()?.port),
            "--trust-domain",
            &self.trust_domain,
            "--token-file",
            &path("token"),
            "--roots-file",
            &path("ca.crt"),
            "--data",
            &path("data"),
            "--ontology",
            &ontology.display().to_string(),
            "--listen",
            &loopback(api),
            "--federation",
            &loopback(federation),
            "--health",
            &loopback(health),
        ]
        .map(str::to_owned)
        .to_vec();
        let kernel_id = format!("{namespace}.{kernel}");
        Ok(Agent {
            kernel: kernel.to_owned(),
            kernel_id,
            api,
            federation,
            health,
            args,
            logs: dir,
            small_disk: false,
            process: None,
        })
    }

    /// `kind/namespace/name` and resourceVersion of every object of ours.
    pub fn versions(&self) -> Result<Vec<(String, String)>> {
        let text = self.api.kubectl(&["get", "remotes,syncs,federationpolicies", "-A", "-o", "json"])?;
        let list: Value = serde_json::from_str(&text)?;
        let items = list["items"].as_array().context("kubectl gave no list")?;
        let mut out: Vec<_> = items
            .iter()
            .map(|o| {
                let meta = |f: &str| o["metadata"][f].as_str().unwrap_or("").to_owned();
                let kind = o["kind"].as_str().unwrap_or("");
                (format!("{kind}/{}/{}", meta("namespace"), meta("name")), meta("resourceVersion"))
            })
            .collect();
        out.sort();
        Ok(out)
    }
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// The committed CRDs, as `kubectl apply` installs them.
pub fn install_crds(api: &ApiServer) -> Result<()> {
    let dir = dirs::root().join("crds/generated");
    api.kubectl(&["apply", "--server-side", "-f", &dir.display().to_string()])?;
    api.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
    Ok(())
}

/// Both learn the other's roots.
pub fn exchange_trust(namespace: &str, a: &Cluster, b: &Cluster) -> Result<()> {
    a.trust(namespace, b)?;
    b.trust(namespace, a)
}

impl Operator {
    /// Starts it (again), and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// As [`Operator::start`], this time with more arguments.
    pub fn start_with(&mut self, more: &[&str]) -> Result<()> {
        let mut command = mew(self.args.iter().map(String::as_str).chain(more.iter().copied()))?;
        // As the chart starts it.
        command.env("MALLOC_ARENA_MAX", "1");
        self.process = Some(Process::start(&self.identity, command, &self.logs)?);
        wait_serving(&mut self.process, self.health, "the operator is ready")
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    pub fn leads(&self) -> bool {
        http::get(self.health, "/ready").is_ok_and(|(s, text)| s == 200 && text.trim() == "leading")
    }

    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Without a chance to give the Lease back.
    pub fn kill(&mut self) {
        if let Some(mut p) = self.process.take() {
            p.kill();
        }
    }

    /// How often everything was planned, and how many statuses were written.
    pub fn counters(&self) -> Result<(u64, u64)> {
        let get = |name: &str| -> Result<u64> {
            let v = http::metric(self.health, name)?;
            Ok(v.with_context(|| format!("the operator has no metric {name}"))? as u64)
        };
        Ok((get("mew_operator_plans_total")?, get("mew_operator_status_writes_total")?))
    }
}

impl Agent {
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Starts it (again) on the same data and ports, and waits until its kernel is open.
    pub fn start(&mut self) -> Result<()> {
        self.start_with_env(&[])
    }

    /// As [`Agent::start`], this time with these variables.
    pub fn start_with_env(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        let mut command = mew(&self.args)?;
        command.envs(variables.iter().copied());
        if self.small_disk {
            command = small_disk::with_small_disk(&command, &self.data())?;
        }
        self.process = Some(Process::start("agent", command, &self.logs)?);
        let r = wait_serving(&mut self.process, self.health, "the agent's kernel is open");
        if self.small_disk { r.context(small_disk::NEEDS) } else { r }
    }

    fn data(&self) -> PathBuf {
        self.logs.join("data")
    }

    /// From the next start on its data is on a disk that a test can fill. What is there is gone when the agent ends.
    pub fn use_small_disk(&mut self) {
        self.small_disk = true;
    }

    /// The disk of the running agent.
    pub fn small_disk(&self) -> Result<SmallDisk> {
        let pid = self.pid().filter(|_| self.small_disk).context("no agent runs on a small disk")?;
        Ok(SmallDisk::of(pid, &self.data()))
    }

    pub fn stop(&mut self) {
        self.process = None;
    }

    /// As a machine dies.
    pub fn kill(&mut self) {
        if let Some(mut p) = self.process.take() {
            p.kill();
        }
    }

    /// Runs a statement through HTTP/JSON, as an application would; see `mew_net::json` for the values.
    pub fn execute(&self, text: &str, params: Value) -> Result<Value> {
        http::post(self.api, "/v1/execute", &json!({"text": text, "params": params})).with_context(|| text.to_owned())
    }

    /// The rows of a query.
    pub fn rows(&self, text: &str) -> Result<Vec<Value>> {
        let answer = self.execute(text, json!({}))?;
        Ok(answer["rows"].as_array().context("no rows")?.clone())
    }
}

fn wait_serving(process: &mut Option<Process>, health: u16, what: &str) -> Result<()> {
    let Some(p) = process else { bail!("{what}: it was not started") };
    let mut said = String::new();
    let r = until(what, PATIENCE, || {
        p.check()?;
        match http::get(health, "/ready") {
            Ok((200, _)) => return Ok(Some(())),
            Ok((_, text)) => said = text,
            Err(e) => said = format!("{e:#}"),
        }
        Ok(None)
    });
    r.with_context(|| format!("{}\n{}", said.trim(), p.tail()))
}
