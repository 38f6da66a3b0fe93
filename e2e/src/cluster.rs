//! A kind cluster, and what people type at it.

use crate::engine::Engine;
use crate::prepare::{Archive, Prepared, Tools};
use crate::run::{CALL, both, output_within};
use crate::wait::{PATIENCE, until};
use anyhow::{Context, Result, ensure};
use mew_tests::kstatus::condition;
use mew_tests::kubectl::Kubectl;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// To make a cluster, or to take it away.
const MAKE: Duration = Duration::from_secs(900);

#[derive(Clone)]
pub struct Cluster {
    /// As kind has it.
    pub name: &'static str,
    pub trust_domain: &'static str,
    pub engine: Engine,
    tools: Tools,
    kubectl: Kubectl,
    kubeconfig: PathBuf,
    /// Of kubectl and helm, whose caches shall not be the user's; logs about this cluster go there too.
    home: PathBuf,
}

impl Cluster {
    pub fn new(name: &'static str, trust_domain: &'static str, p: &Prepared) -> Self {
        let home = p.logs.join(name);
        let kubeconfig = home.join("kubeconfig");
        let kubectl = Kubectl::new(&p.tools.kubectl, &kubeconfig, &home);
        Cluster { name, trust_domain, engine: p.engine, tools: p.tools.clone(), kubectl, kubeconfig, home }
    }

    // ------------------------------------------------------------------ kind

    fn kind(&self, args: &[&str]) -> Result<String> {
        let mut c = Command::new(&self.tools.kind);
        c.args(args);
        if let Some(p) = self.engine.provider() {
            c.env("KIND_EXPERIMENTAL_PROVIDER", p);
        }
        output_within(c, "", MAKE)
    }

    pub fn exists(&self) -> Result<bool> {
        Ok(self.kind(&["get", "clusters"])?.lines().any(|l| l.trim() == self.name))
    }

    /// Takes one that was kept, if it is well.
    pub fn reuse(&self) -> Result<()> {
        std::fs::create_dir_all(&self.home)?;
        let kubeconfig = self.kubeconfig.display().to_string();
        self.kind(&["export", "kubeconfig", "--name", self.name, "--kubeconfig", &kubeconfig])?;
        let nodes = self.list("nodes", "", "")?;
        ensure!(!nodes.is_empty() && nodes.iter().all(is_ready), "not all nodes are ready");
        Ok(())
    }

    pub fn create(&self, config: &Path, node_image: Option<&str>) -> Result<()> {
        std::fs::create_dir_all(&self.home)?;
        let (config, kubeconfig) = (config.display().to_string(), self.kubeconfig.display().to_string());
        let mut args = vec!["create", "cluster", "--name", self.name, "--config", &config, "--kubeconfig", &kubeconfig];
        args.extend(["--wait", "300s", "--retain"]);
        if let Some(image) = node_image {
            args.extend(["--image", image]);
        }
        self.kind(&args).map(drop)
    }

    pub fn delete(&self) -> Result<()> {
        let kubeconfig = self.kubeconfig.display().to_string();
        self.kind(&["delete", "cluster", "--name", self.name, "--kubeconfig", &kubeconfig]).map(drop)
    }

    pub fn export_logs(&self, to: &Path) -> Result<()> {
        self.kind(&["export", "logs", "--name", self.name, &to.display().to_string()]).map(drop)
    }

    pub fn load(&self, image: &Archive) -> Result<()> {
        self.kind(&["load", "image-archive", &image.file.display().to_string(), "--name", self.name]).map(drop)
    }

    /// The node that other clusters knock at: the one that stays when workers go.
    pub fn control_plane(&self) -> String {
        format!("{}-control-plane", self.name)
    }

    /// Runs a program in a node.
    pub fn on_node(&self, node: &str, args: &[&str]) -> Result<String> {
        self.engine.exec(node, args)
    }

    /// Starts a node that was stopped, and waits until it is ready and has said so since.
    pub fn start_node(&self, node: &str) -> Result<()> {
        let heard = || Ok::<_, anyhow::Error>(self.get("lease", "kube-node-lease", node)?["spec"]["renewTime"].take());
        let before = heard()?;
        self.engine.start(node)?;
        until(&format!("{node} is ready again"), PATIENCE, || {
            Ok((heard()? != before && is_ready(&self.get("node", "", node)?)).then_some(()))
        })
    }

    /// Every node with its address, as they are now.
    pub fn nodes(&self) -> Result<Vec<(String, String)>> {
        let all = self.list("nodes", "", "")?;
        all.iter().map(|n| Ok((name_of(n), address_of(n).context("a node has no address")?))).collect()
    }

    /// How the pods of this cluster reach a node of another one: by its name, as its address changes when it is started
    /// again; by its address where the engine has no names.
    pub fn way_to(&self, other: &Cluster) -> Result<String> {
        let node = other.control_plane();
        if self.on_node(&self.control_plane(), &["getent", "hosts", &node]).is_ok() {
            return Ok(node);
        }
        address_of(&other.get("node", "", &node)?).with_context(|| format!("{node} has no address"))
    }

    // --------------------------------------------------------------- kubectl

    /// A program that finds this cluster.
    pub fn command(&self, program: &Path) -> Command {
        let mut c = Command::new(program);
        c.envs(self.kubectl.environment());
        for (variable, dir) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            c.env(variable, self.home.join("helm").join(dir));
        }
        c
    }

    /// kubectl at this cluster.
    pub fn client(&self) -> &Kubectl {
        &self.kubectl
    }

    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl.run(args)
    }

    pub fn kubectl_with(&self, args: &[&str], stdin: &str) -> Result<String> {
        self.kubectl.run_with(args, stdin)
    }

    /// With all that is in it; waits until it is gone.
    pub fn delete_namespace(&self, name: &str) -> Result<()> {
        self.kubectl(&["delete", "namespace", name, "--ignore-not-found", "--timeout=120s"]).map(drop)
    }

    pub fn helm(&self, args: &[&str], values: &str) -> Result<String> {
        let mut c = self.command(&self.tools.helm);
        c.args(args);
        output_within(c, values, MAKE)
    }

    /// What `mew` prints, and what it says beside.
    pub fn mew(&self, args: &[&str]) -> Result<(String, String)> {
        let mut c = self.command(&self.tools.mew);
        c.args(args);
        both(c, "", CALL)
    }

    // --------------------------------------------------------------- objects

    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.kubectl_with(&["apply", "-f", "-"], manifest).map(drop)
    }

    /// `None` if there is no such object. The namespace is empty for kinds without one.
    pub fn find(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        self.kubectl.find(kind, namespace, name)
    }

    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        self.kubectl.get(kind, namespace, name)
    }

    /// Objects with these labels; an empty namespace means none or all of them.
    pub fn list(&self, kind: &str, namespace: &str, labels: &str) -> Result<Vec<Value>> {
        self.kubectl.list(kind, namespace, labels)
    }

    /// Waits until an object is as it should be; a failure shows its status.
    pub fn wait(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        what: &str,
        good: impl Fn(&Value) -> bool,
        limit: Duration,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let r = until(&format!("{} {kind} {name}: {what}", self.name), limit, || {
            last = self.find(kind, namespace, name)?.unwrap_or_default();
            Ok(good(&last).then(|| last.clone()))
        });
        r.with_context(|| match &last {
            Value::Null => "it does not exist".to_owned(),
            v => serde_json::to_string_pretty(&v["status"]).unwrap_or_default(),
        })
    }

    /// Ready about the spec as it is.
    pub fn becomes_ready(&self, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        let good = |o: &Value| {
            let current = |c: &Value| c["observedGeneration"] == o["metadata"]["generation"];
            condition(o, "Ready").is_some_and(|c| c["status"] == "True" && current(c))
        };
        self.wait(kind, namespace, name, "is ready", good, PATIENCE)
    }

    /// A change of some fields.
    pub fn patch(&self, kind: &str, namespace: &str, name: &str, patch: &Value) -> Result<()> {
        self.kubectl(&["patch", kind, name, "-n", namespace, "--type=merge", "-p", &patch.to_string()]).map(drop)
    }

    pub fn scale(&self, namespace: &str, deployment: &str, replicas: u32) -> Result<()> {
        let object = format!("deployment/{deployment}");
        self.kubectl(&["scale", &object, "-n", namespace, &format!("--replicas={replicas}")]).map(drop)
    }

    /// Waits until a Deployment is as it was declared.
    pub fn rolled_out(&self, namespace: &str, deployment: &str) -> Result<()> {
        let object = format!("deployment/{deployment}");
        self.kubectl(&["rollout", "status", &object, "-n", namespace, "--timeout=180s"]).map(drop)
    }

    /// Ends a container as a machine or the kernel would, or stops its clock: `kill -s SIGKILL`, `pause`, `resume`.
    pub fn task(&self, pod: &Value, container: &str, verb: &[&str]) -> Result<()> {
        let node = pod["spec"]["nodeName"].as_str().context("the pod runs nowhere")?;
        let id =
            container_status(pod, container).and_then(|s| s["containerID"].as_str()?.strip_prefix("containerd://"));
        let id = id.with_context(|| format!("container {container} does not run"))?;
        let (verb, options) = verb.split_first().context("no verb")?;
        let mut args = vec!["ctr", "-n", "k8s.io", "tasks", *verb];
        args.extend(options);
        args.push(id);
        self.on_node(node, &args).map(drop)
    }
}

/// Of an ordinary container or of a sidecar.
pub fn container_status<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let lists = ["containerStatuses", "initContainerStatuses"].map(|l| pod["status"][l].as_array());
    lists.into_iter().flatten().flatten().find(|s| s["name"] == name)
}

/// Of a node, inside the engine's network.
fn address_of(node: &Value) -> Option<String> {
    let mut addresses = node["status"]["addresses"].as_array()?.iter();
    addresses.find(|a| a["type"] == "InternalIP")?["address"].as_str().map(str::to_owned)
}

/// Of a node or a pod.
pub fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

/// Nobody has asked for its end.
pub fn stays(object: &Value) -> bool {
    object["metadata"].get("deletionTimestamp").is_none()
}

pub fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}
