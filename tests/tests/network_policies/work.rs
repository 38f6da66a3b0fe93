//! Real processes on the hosts of the network: an API server here, an operator, a kernel on its own, an agent that dials it.

use crate::network::{Network, Origin};
use crate::{AGENTS, DOMAIN, KERNEL, KERNELS, address};
use anyhow::{Context, Result, ensure};
use mew_tests::apiserver::{ApiServer, Setup};
use mew_tests::charts::{accounts, operator_args, webhook_at};
use mew_tests::cluster::{Cluster, PATIENCE, SYSTEM};
use mew_tests::dirs::root;
use mew_tests::output::output_within;
use mew_tests::process::{Process, mew};
use mew_tests::wait::until;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::time::Duration;

/// As in most clusters.
const PORT: u16 = 6443;
/// The Service of the API server, which the node translates.
const KUBERNETES: &str = "https://10.96.0.1:443";
/// The kernel beside an application, on the host `agent`.
const TILL: &str = "till";
const CALL: Duration = Duration::from_secs(60);

pub struct Work {
    // Before the server that they talk to.
    _processes: Vec<Process>,
    cluster: Cluster,
    written: usize,
}

impl Work {
    /// All of it, and a declared flow that is ready.
    pub fn start(network: &Network, chart: &[Value]) -> Result<Self> {
        let api = ApiServer::start_as("api-server", Setup { port: Some(PORT), ..Setup::default() })?;
        let cluster = Cluster::at(api, DOMAIN)?;
        for namespace in [AGENTS, KERNELS] {
            cluster.api.create_namespace(namespace)?;
        }
        let mut processes = vec![operator(network, &cluster, chart)?];
        processes.push(agent(network, &cluster, KERNELS, KERNEL, "kernel")?);
        processes.push(agent(network, &cluster, AGENTS, TILL, "agent")?);
        declare(&cluster)?;
        cluster.api.wait_ready("sync/states", AGENTS, PATIENCE)?;
        Ok(Work { _processes: processes, cluster, written: 0 })
    }

    /// What the network is for, once more.
    pub fn goes_on(&mut self, network: &Network) -> Result<()> {
        self.data_flows(network)?;
        self.the_webhook_is_asked()?;
        for (from, host, port, path, has) in [
            (Origin::Node, "operator", 9465, "/ready", "leading"),
            (Origin::Node, "kernel", 9464, "/ready", ""),
            (Origin::Host("prometheus"), "operator", 9465, "/metrics", "mew_operator_leading"),
            (Origin::Host("prometheus"), "kernel", 9464, "/metrics", "federation_"),
        ] {
            let text = network.get(from, address(host)?, port, path)?;
            ensure!(text.starts_with("HTTP/1.1 200 ") && text.contains(has), "{path} of {host}: {text}");
        }
        Ok(())
    }

    /// From the agent to the kernel that it dials; the status comes back through the operator.
    fn data_flows(&mut self, network: &Network) -> Result<()> {
        self.written += 1;
        let code = format!("S{}", self.written);
        let run = |host: &str, args: [&str; 3]| -> Result<String> {
            let mut c = Command::new(mew::<&str>([])?.get_program());
            c.args(args);
            output_within(network.on(host, &c)?, "", CALL)
        };
        run("agent", ["exec", "--address=127.0.0.1:9000", &format!(r#"SPAWN State {{code = "{code}"}}"#)])?;
        until("what was written is at the peer", PATIENCE, || {
            let rows = run("kernel", ["query", "--address=127.0.0.1:9000", "MATCH s: State RETURN s.code"])?;
            Ok(rows.contains(&code).then_some(()))
        })?;
        self.cluster.api.wait_ready("sync/states", AGENTS, PATIENCE)
    }

    /// By the API server.
    fn the_webhook_is_asked(&self) -> Result<()> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web", "namespace": AGENTS, "labels": {"federation.mew.dev/kernel": TILL},
                "annotations": {"federation.mew.dev/storage": "ephemeral", "federation.mew.dev/ontology": TILL},
            },
            "spec": {
                "serviceAccountName": format!("kernel-{TILL}"),
                "containers": [{"name": "web", "image": "registry.example.com/web:1"}],
            },
        });
        // The API server notices a changed webhook after a moment.
        let mut last = String::new();
        let done = until("a pod gets its agent", PATIENCE, || {
            let args = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
            last = self.cluster.api.kubectl_with(&args, &pod.to_string()).unwrap_or_else(|e| format!("{e:#}"));
            Ok(last.contains("\"mew-agent\"").then_some(()))
        });
        done.with_context(|| last)
    }
}

/// By the arguments and with the rights that the chart gives it.
fn operator(network: &Network, cluster: &Cluster, chart: &[Value]) -> Result<Process> {
    let (api, host) = (&cluster.api, address("operator")?);
    api.apply_server_side(&accounts(chart).to_string())?;
    api.apply_server_side(&webhook_at(chart, &format!("{host}:9444"))?.to_string())?;
    let kubeconfig = api.kubeconfig_of(SYSTEM, "mew-operator", KUBERNETES)?.display().to_string();
    let dns = format!("--webhook-dns={host}");
    let ours = [
        "operator",
        "--kubeconfig",
        &kubeconfig,
        "--trust-domain",
        DOMAIN,
        "--namespace",
        SYSTEM,
        "--identity=operator",
        "--listen=0.0.0.0:9443",
        "--health=0.0.0.0:9465",
        "--webhook-listen=0.0.0.0:9444",
        &dns,
    ];
    let command = mew(ours.map(str::to_owned).into_iter().chain(operator_args(chart)?))?;
    let mut process = Process::start("operator", network.on("operator", &command)?, api.dir())?;
    let ready = until("the operator leads", PATIENCE, || {
        process.check()?;
        let said = network.get(Origin::Node, host, 9465, "/ready");
        Ok(said.is_ok_and(|text| text.contains("leading")).then_some(()))
    });
    ready.with_context(|| process.tail())?;
    Ok(process)
}

/// The agent of a kernel, on this host.
fn agent(network: &Network, cluster: &Cluster, namespace: &str, kernel: &str, host: &str) -> Result<Process> {
    let (api, account) = (&cluster.api, format!("kernel-{kernel}"));
    api.create_service_account(namespace, &account)?;
    let token = api.create_token(namespace, &account, &format!("federation.mew.dev/{DOMAIN}/kernel/{kernel}"))?;
    let dir = api.dir().join(kernel);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("token"), token)?;
    fs::write(dir.join("ca.crt"), cluster.roots()?)?;
    let path = |f: &str| dir.join(f).display().to_string();
    let command = mew([
        "agent".to_owned(),
        format!("--kernel={kernel}"),
        format!("--operator={}:9443", address("operator")?),
        format!("--trust-domain={DOMAIN}"),
        format!("--token-file={}", path("token")),
        format!("--roots-file={}", path("ca.crt")),
        format!("--data={}", path("data")),
        format!("--ontology={}", root().join("examples/airports/flights.ontology").display()),
        "--listen=127.0.0.1:9000".to_owned(),
        "--federation=0.0.0.0:9001".to_owned(),
        "--health=0.0.0.0:9464".to_owned(),
    ])?;
    let mut process = Process::start(host, network.on(host, &command)?, api.dir())?;
    let ready = until("the agent's kernel is open", PATIENCE, || {
        process.check()?;
        let said = network.get(Origin::Node, address(host)?, 9464, "/ready");
        Ok(said.is_ok_and(|text| text.starts_with("HTTP/1.1 200 ")).then_some(()))
    });
    ready.with_context(|| process.tail())?;
    Ok(process)
}

/// States go from the agent to the kernel on its own, which waits for the connection.
fn declare(cluster: &Cluster) -> Result<()> {
    let object = |kind: &str, namespace: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": "federation.mew.dev/v1alpha1", "kind": kind,
            "metadata": {"name": name, "namespace": namespace}, "spec": spec,
        })
    };
    let policy = |operation: &str| {
        let rule = json!({"name": "states", "action": "Allow", "operations": [operation], "types": ["State"]});
        json!({"remoteSelector": {}, "rules": [rule]})
    };
    let remote = |kernel: &str, host: &str, peer: &str, mode: &str, list: &str| -> Result<Value> {
        Ok(json!({
            "kernelRef": {"name": kernel}, "uri": format!("mew://{}:9001/{peer}", address(host)?),
            "connectionMode": mode, "peer": {"trustDomain": DOMAIN}, "permissions": {list: [{"type": "State"}]},
        }))
    };
    let (till, shop) = (format!("{AGENTS}.{TILL}"), format!("{KERNELS}.{KERNEL}"));
    for o in [
        object("FederationPolicy", AGENTS, "all", policy("Export")),
        object("FederationPolicy", KERNELS, "all", policy("Import")),
        object("Remote", KERNELS, TILL, remote(KERNEL, "agent", &till, "Accept", "canSend")?),
        object("Remote", AGENTS, KERNEL, remote(TILL, "kernel", &shop, "Dial", "canReceive")?),
        object(
            "Sync",
            AGENTS,
            "states",
            json!({"remoteRef": {"name": KERNEL}, "direction": "Push", "match": "s: State"}),
        ),
    ] {
        cluster.api.apply_server_side(&o.to_string())?;
    }
    Ok(())
}
