//! The NetworkPolicies of the charts, enforced by the kernel of this machine between network namespaces: real processes work
//! under them (attachment, webhook, metrics, probes, a peer, the API server through its Service), and nothing else passes.
//!
//! There is no kubelet and no network plugin: the policies are compiled to nftables here, in `policies.rs`.

#[path = "network_policies/flows.rs"]
mod flows;
#[path = "network_policies/network.rs"]
mod network;
#[path = "network_policies/policies.rs"]
mod policies;
#[path = "network_policies/work.rs"]
mod work;

use anyhow::{Context, Result, anyhow, ensure};
use flows::{FLOWS, Flow};
use mew_tests::assets::kube_assets;
use mew_tests::charts::{installed, named};
use mew_tests::cluster::SYSTEM;
use mew_tests::dirs::scratch;
use mew_tests::packages::program;
use mew_tests::process::{mew, run};
use mew_tests::tools::helm;
use network::{CONTROL_PLANE, Network};
use policies::{Labels, Pod, table};
use serde_json::{Value, json};
use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;
use work::Work;

const TEST: &str = "what_is_needed_passes_and_nothing_else";
/// Set for the program in its own network.
const INSIDE: &str = "MEW_IN_A_NETWORK";
/// Half a minute; this is for a machine that is busy with something else.
const LIMIT: Duration = Duration::from_secs(600);
const NEEDS: &str = "a network of its own needs `unshare`, `nsenter`, `ip` and `nft`, and the right to make one: root's, or user namespaces";

const DOMAIN: &str = "network.example";
const AGENTS: &str = "team-a";
const KERNELS: &str = "team-b";
/// Name of the kernel on its own, and of its release.
const KERNEL: &str = "shop";
/// Name, namespace (none: outside of the cluster) and address. What the charts install gets its labels from them.
const HOSTS: [(&str, &str, Ipv4Addr); 10] = [
    ("operator", SYSTEM, Ipv4Addr::new(10, 244, 1, 2)),
    ("kernel", KERNELS, Ipv4Addr::new(10, 244, 2, 2)),
    ("agent", AGENTS, Ipv4Addr::new(10, 244, 3, 2)),
    ("plain", AGENTS, Ipv4Addr::new(10, 244, 4, 2)),
    ("client", KERNELS, Ipv4Addr::new(10, 244, 5, 2)),
    ("elsewhere", "other", Ipv4Addr::new(10, 244, 6, 2)),
    ("prometheus", "monitoring", Ipv4Addr::new(10, 244, 7, 2)),
    ("dns", "kube-system", Ipv4Addr::new(10, 244, 8, 2)),
    ("peer", "", Ipv4Addr::new(203, 0, 113, 2)),
    ("stranger", "", Ipv4Addr::new(198, 51, 100, 2)),
];

/// What is installed: both charts, with some values.
struct Charts {
    operator: Vec<Value>,
    kernel: Vec<Value>,
}

#[test]
fn what_is_needed_passes_and_nothing_else() -> Result<()> {
    if env::var_os(INSIDE).is_some() {
        return inside();
    }
    // In there nothing can be fetched, and what is built would not be seen.
    kube_assets();
    helm();
    mew::<&str>([])?;
    let tools = [program("ip", "iproute2", "MEW_IP")?, program("nft", "nftables", "MEW_NFT")?];
    let path = env::var_os("PATH").unwrap_or_default();
    let path = tools.iter().filter_map(|t| t.parent()).map(Path::to_owned).chain(env::split_paths(&path));
    let mut c = Command::new("unshare");
    c.env("PATH", env::join_paths(path)?);
    c.args(["--net", "--fork", "--kill-child"]);
    if !rustix::process::geteuid().is_root() {
        c.args(["--user", "--map-root-user"]);
    }
    c.arg("--").arg(env::current_exe()?).args(["--exact", TEST, "--nocapture"]).env(INSIDE, "1");
    let out = run(c, "", LIMIT).context(NEEDS)?;
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    ensure!(out.status.success(), "{}\n{}\n{NEEDS}", text(&out.stdout), text(&out.stderr));
    Ok(())
}

/// This process is the machine of the control plane.
fn inside() -> Result<()> {
    let dir = scratch("network")?;
    let hosts = HOSTS.map(|(name, _, address)| (name, address));
    let network = Network::start(&hosts, &dir)?;
    // Whatever is dropped later is dropped by a policy.
    all_are(&network, |_| true, "without policies")?;
    let (narrow, wide) = (Charts::narrow(&dir)?, Charts::wide(&dir)?);
    network.enforce(&narrow.table()?)?;
    let mut work = Work::start(&network, &narrow.operator)?;
    work.goes_on(&network)?;
    all_are(&network, |f| f.passes.0, "with narrow values")?;
    network.enforce(&wide.table()?)?;
    all_are(&network, |f| f.passes.1, "with wide values")?;
    work.goes_on(&network)
}

impl Charts {
    /// Everything that can be told is told.
    fn narrow(dir: &Path) -> Result<Self> {
        let agents = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": AGENTS}}});
        Self::render(
            dir,
            json!({"watchNamespaces": [AGENTS, KERNELS]}),
            json!({"apiServerCIDRs": [format!("{CONTROL_PLANE}/32")]}),
            json!({}),
            json!({"peers": [{"ipBlock": {"cidr": "203.0.113.0/24"}}, agents]}),
        )
    }

    /// As the charts are by default, and clients are let in.
    fn wide(dir: &Path) -> Result<Self> {
        Self::render(dir, json!({}), json!({}), json!({"client": {"enabled": true}}), json!({}))
    }

    /// Values of the operator, of its policy, of the kernel, and of its policy.
    fn render(dir: &Path, mut operator: Value, mut its: Value, mut kernel: Value, mut theirs: Value) -> Result<Self> {
        let prometheus = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]);
        for (values, policy) in [(&mut operator, &mut its), (&mut kernel, &mut theirs)] {
            policy["metricsFrom"] = prometheus.clone();
            values["networkPolicy"] = policy.clone();
            values["trustDomain"] = json!(DOMAIN);
        }
        operator["monitoring"] = json!({"enabled": true});
        kernel["ontology"] = json!("ontology Shop { node State { code: String } }");
        let file = |name: &str, values: &Value| -> Result<_> {
            let path = dir.join(name);
            fs::write(&path, values.to_string())?;
            Ok(path)
        };
        let (of_operator, of_kernel) = (file("operator.json", &operator)?, file("kernel.json", &kernel)?);
        Ok(Charts {
            operator: installed("mew-operator", "mew-operator", SYSTEM, &[&of_operator])?,
            kernel: installed("mew-kernel", KERNEL, KERNELS, &[&of_kernel])?,
        })
    }

    fn table(&self) -> Result<String> {
        let all = self.operator.iter().chain(&self.kernel).filter(|o| o["kind"] == "NetworkPolicy");
        let all: Vec<Value> = all.cloned().collect();
        ensure!(all.len() == 2, "{} policies", all.len());
        table(&all, &self.pods()?)
    }

    fn pods(&self) -> Result<Vec<Pod>> {
        let inside = HOSTS.iter().filter(|(_, namespace, _)| !namespace.is_empty());
        let pod = |&(name, namespace, address): &(&str, &str, Ipv4Addr)| -> Result<Pod> {
            Ok(Pod { namespace: namespace.to_owned(), labels: self.labels(name)?, address })
        };
        inside.map(pod).collect()
    }

    fn labels(&self, host: &str) -> Result<Labels> {
        let of = |o: &Value| -> Result<Labels> {
            Ok(serde_json::from_value(o["spec"]["template"]["metadata"]["labels"].clone())?)
        };
        let one = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
        match host {
            "operator" => of(named(&self.operator, "Deployment", "mew-operator")?),
            "kernel" => of(named(&self.kernel, "StatefulSet", KERNEL)?),
            "agent" | "elsewhere" => Ok(one("federation.mew.dev/kernel", host)),
            other => Ok(one("app", other)),
        }
    }
}

fn address(host: &str) -> Result<Ipv4Addr> {
    let found = HOSTS.iter().find(|(name, ..)| *name == host).map(|(.., address)| *address);
    found.with_context(|| format!("there is no host {host}"))
}

/// Tries all flows at once, as each that is dropped takes seconds.
fn all_are(network: &Network, expected: impl Fn(&Flow) -> bool, when: &str) -> Result<()> {
    let one = |f: &Flow| -> Result<bool> {
        let to = match f.to.0 {
            "control-plane" => CONTROL_PLANE,
            "node" => network.node_address(),
            host => address(host)?,
        };
        network.reaches(f.from, to, f.to.1, f.protocol)
    };
    let one = &one;
    let results: Vec<Result<bool>> = thread::scope(|s| {
        let running: Vec<_> = FLOWS.iter().map(|f| s.spawn(move || one(f))).collect();
        running.into_iter().map(|r| r.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))).collect()
    });
    let mut wrong = Vec::new();
    for (f, passes) in FLOWS.iter().zip(results) {
        let passes = passes?;
        if passes != expected(f) {
            let verb = if passes { "passes" } else { "is dropped" };
            wrong.push(format!("{:?} to {}:{} ({:?}) {verb}: {}", f.from, f.to.0, f.to.1, f.protocol, f.what));
        }
    }
    ensure!(wrong.is_empty(), "{when}:\n{}", wrong.join("\n"));
    Ok(())
}
