//! A real API server on loopback: etcd and kube-apiserver, nothing else. Without a controller manager there are no default
//! service accounts, nothing is deleted because its owner was, and a deleted namespace stays.

use crate::assets::kube_assets;
use crate::dirs::scratch;
use crate::kubectl::Kubectl;
use crate::pki;
use crate::ports::free_port;
use crate::process::{Process, dying_with_us};
use crate::wait::until;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// It takes 2 or 3 seconds; this is for a machine that is busy with something else.
const START: Duration = Duration::from_secs(120);
/// Nobody wants what they have not written yet.
const GRACE: Duration = Duration::from_secs(1);
const KUBECONFIG: &str = "kubeconfig";
const AUDIT: &str = "audit.log";
const AUDIT_POLICY: &str = "audit-policy.json";

pub struct ApiServer {
    dir: PathBuf,
    kubectl: Kubectl,
    port: u16,
    etcd_port: u16,
    setup: Setup,
    server: Option<Process>,
    etcd: Process,
}

/// What is not usual about a server.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The version that it behaves like, such as `1.33`, if not its own: it serves and validates what that version did.
    pub emulates: Option<String>,
    /// Whether it writes down who asked for what; see [`ApiServer::audit`].
    pub is_audited: bool,
    /// The port at which it listens to everybody, instead of a free one of loopback: only in a network of its own.
    pub port: Option<u16>,
}

impl ApiServer {
    /// Starts an empty one, with a directory of that name.
    pub fn start(name: &str) -> Result<Self> {
        Self::start_as(name, Setup::default())
    }

    pub fn start_as(name: &str, setup: Setup) -> Result<Self> {
        let assets = kube_assets();
        let dir = scratch(name)?;
        println!("logs of {name}: {}", dir.display());
        pki::make(&dir.join("pki"))?;
        let (etcd_port, peer_port) = (free_port()?, free_port()?);
        let port = setup.port.map_or_else(free_port, Ok)?;
        let (client, peer) = (format!("http://127.0.0.1:{etcd_port}"), format!("http://127.0.0.1:{peer_port}"));
        let mut c = dying_with_us(&assets.etcd);
        c.args(["--unsafe-no-fsync", "--log-level", "warn", "--data-dir"])
            .arg(dir.join("etcd"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg(format!("--initial-cluster=default={peer}"));
        let etcd = Process::start("etcd", c, &dir)?.with_grace(GRACE);
        let kubectl = Kubectl::new(&assets.kubectl, &dir.join(KUBECONFIG), &dir);
        let mut api = ApiServer { dir, kubectl, port, etcd_port, setup, server: None, etcd };
        let pki = |f: &str| api.dir.join("pki").join(f);
        let admin = json!({"client-certificate": pki("admin.crt"), "client-key": pki("admin.key")});
        api.write_kubeconfig(&api.kubeconfig(), &api.url(), &admin)?;
        // Who, what and how it ended; no contents.
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata"}],
        });
        fs::write(api.dir.join(AUDIT_POLICY), policy.to_string())?;
        api.start_server()?;
        Ok(api)
    }

    /// Starts the server (again), and waits until it is ready.
    pub fn start_server(&mut self) -> Result<()> {
        let pki = |f: &str| self.dir.join("pki").join(f).display().to_string();
        let mut c = dying_with_us(&kube_assets().kube_apiserver);
        let listen = if self.setup.port.is_some() { "0.0.0.0" } else { "127.0.0.1" };
        c.arg(format!("--bind-address={listen}"))
            .args(["--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"])
            .arg(format!("--secure-port={}", self.port))
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port))
            .args(["--etcd-compaction-interval=0", "--etcd-count-metric-poll-period=0"])
            .args(["--etcd-db-metric-poll-interval=0", "--service-cluster-ip-range=10.96.0.0/16"])
            .arg(format!("--tls-cert-file={}", pki("apiserver.crt")))
            .arg(format!("--tls-private-key-file={}", pki("apiserver.key")))
            .arg(format!("--client-ca-file={}", pki("ca.crt")))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", pki("sa.pub")))
            .arg(format!("--service-account-signing-key-file={}", pki("sa.key")))
            .args(["--authorization-mode=Node,RBAC", "--allow-privileged=true", "--profiling=false"])
            .arg("--event-ttl=10m")
            .args(self.setup.emulates.iter().map(|v| format!("--emulated-version={v}")));
        if self.setup.is_audited {
            c.arg(format!("--audit-policy-file={}", self.dir.join(AUDIT_POLICY).display()))
                .arg(format!("--audit-log-path={}", self.dir.join(AUDIT).display()));
        }
        self.server = Some(Process::start("kube-apiserver", c, &self.dir)?.with_grace(GRACE));
        until("the API server is ready", START, || {
            self.etcd.check()?;
            if let Some(s) = &mut self.server {
                s.check()?;
            }
            let ready = self.kubectl(&["get", "--raw=/readyz", "--request-timeout=5s"]);
            Ok(ready.is_ok_and(|s| s.trim() == "ok").then_some(()))
        })
        .with_context(|| self.server.as_ref().map(Process::tail).unwrap_or_default())
    }

    /// Takes the server away; what it holds stays in etcd.
    pub fn stop_server(&mut self) {
        self.server = None;
    }

    fn write_kubeconfig(&self, file: &Path, url: &str, user: &Value) -> Result<()> {
        let ca = self.dir.join("pki/ca.crt");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": ca}}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        });
        // JSON is YAML.
        fs::write(file, serde_json::to_vec_pretty(&config)?).with_context(|| file.display().to_string())
    }

    /// Where it is, for whoever is on this machine.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Of a service account, which reaches the server at this URL.
    pub fn kubeconfig_of(&self, namespace: &str, account: &str, url: &str) -> Result<PathBuf> {
        let token = self.kubectl(&["create", "token", account, "-n", namespace, "--duration", "24h"])?;
        let file = self.dir.join(format!("{namespace}.{account}.kubeconfig"));
        self.write_kubeconfig(&file, url, &json!({"token": token.trim()}))?;
        Ok(file)
    }

    /// Every request so far and how it ended, as the server has written it down.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let file = self.dir.join(AUDIT);
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|l| serde_json::from_str(l).with_context(|| l.to_owned())).collect()
    }

    /// Of an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join(KUBECONFIG)
    }

    /// Logs, and whatever else belongs to this server.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// kubectl at this server.
    pub fn client(&self) -> &Kubectl {
        &self.kubectl
    }

    /// What kubectl prints.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl.run(args)
    }

    pub fn kubectl_with(&self, args: &[&str], stdin: &str) -> Result<String> {
        self.kubectl.run_with(args, stdin)
    }

    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.kubectl_with(&["apply", "-f", "-"], yaml)
    }

    pub fn apply_server_side(&self, yaml: &str) -> Result<String> {
        self.kubectl_with(&["apply", "--server-side", "-f", "-"], yaml)
    }

    /// `None` if there is no such object. The namespace is empty for kinds without one.
    pub fn find_json(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        self.kubectl.find(kind, namespace, name)
    }

    pub fn get_json(&self, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        self.kubectl.get(kind, namespace, name)
    }

    /// Waits until an object is as it should be. `what` is for the failure, which also shows the object.
    pub fn wait_json(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        what: &str,
        good: impl Fn(&Value) -> bool,
        limit: Duration,
    ) -> Result<Value> {
        let mut last = None;
        let r = until(&format!("{kind} {name}: {what}"), limit, || {
            last = Some(self.find_json(kind, namespace, name));
            match &last {
                Some(Ok(Some(v))) if good(v) => Ok(Some(v.clone())),
                _ => Ok(None),
            }
        });
        r.with_context(|| match last {
            Some(Ok(Some(v))) => serde_json::to_string_pretty(&v["status"]).unwrap_or_default(),
            Some(Ok(None)) => "it does not exist".to_owned(),
            Some(Err(e)) => format!("{e:#}"),
            None => String::new(),
        })
    }

    /// What people and pipelines type.
    pub fn wait_ready(&self, object: &str, namespace: &str, limit: Duration) -> Result<()> {
        let limit = format!("--timeout={}s", limit.as_secs());
        let waited = self.kubectl(&["wait", "--for=condition=Ready", object, "-n", namespace, &limit]);
        waited
            .map(|_| ())
            .with_context(|| self.kubectl(&["get", object, "-n", namespace, "-o", "yaml"]).unwrap_or_default())
    }

    pub fn create_namespace(&self, name: &str) -> Result<()> {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.apply_server_side(&object.to_string()).map(|_| ())
    }

    pub fn create_service_account(&self, namespace: &str, name: &str) -> Result<()> {
        let metadata = json!({"namespace": namespace, "name": name});
        let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
        self.apply_server_side(&object.to_string()).map(|_| ())
    }

    /// A token as a pod would have it mounted.
    pub fn create_token(&self, namespace: &str, account: &str, audience: &str) -> Result<String> {
        let args = ["create", "token", account, "-n", namespace, "--audience", audience, "--duration", "24h"];
        Ok(self.kubectl(&args)?.trim().to_owned())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop_server();
        self.etcd.stop();
        let _ = fs::remove_dir_all(self.dir.join("etcd")); // 128 MB that nobody reads
    }
}
