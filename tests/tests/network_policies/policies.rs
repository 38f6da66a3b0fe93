//! NetworkPolicies as rules of nftables, for the node that forwards between the pods. What is not understood is an error, never
//! passed over. Traffic from the node to its own pods is not touched: Kubernetes lets the kubelet's probes through in any case.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The label that every namespace has.
const NAMESPACE: &str = "kubernetes.io/metadata.name";

pub type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug)]
pub struct Pod {
    pub namespace: String,
    pub labels: Labels,
    pub address: Ipv4Addr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Spec {
    pod_selector: Selector,
    policy_types: Vec<Direction>,
    #[serde(default)]
    ingress: Vec<In>,
    #[serde(default)]
    egress: Vec<Out>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
enum Direction {
    Ingress,
    Egress,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct In {
    #[serde(default)]
    from: Vec<Peer>,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Out {
    #[serde(default)]
    to: Vec<Peer>,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    /// Absent: all of the protocol. The charts name no port.
    port: Option<u16>,
    protocol: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Peer {
    namespace_selector: Option<Selector>,
    pod_selector: Option<Selector>,
    ip_block: Option<IpBlock>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IpBlock {
    cidr: String,
    #[serde(default)]
    except: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: Labels,
    #[serde(default)]
    match_expressions: Vec<Expression>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Deserialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.match_expressions.iter().all(|e| {
                let value = labels.get(&e.key);
                let is_listed = value.is_some_and(|v| e.values.contains(v));
                match e.operator {
                    Operator::In => is_listed,
                    Operator::NotIn => !is_listed,
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }
}

impl Port {
    fn rule(&self) -> String {
        let protocol = self.protocol.as_deref().unwrap_or("TCP").to_lowercase();
        self.port.map_or_else(|| format!("meta l4proto {protocol}"), |p| format!("{protocol} dport {p}"))
    }
}

impl Peer {
    /// Which addresses, in the words of nftables; `None` if there is none.
    fn addresses(&self, field: &str, own: &str, pods: &[Pod]) -> Result<Option<String>> {
        if let Some(block) = &self.ip_block {
            if self.namespace_selector.is_some() || self.pod_selector.is_some() {
                bail!("a peer is an ipBlock and something else");
            }
            let except: String = block.except.iter().map(|e| format!(" ip {field} != {e}")).collect();
            return Ok(Some(format!("ip {field} {}{except}", block.cidr)));
        }
        let namespace_fits = |p: &Pod| match &self.namespace_selector {
            Some(s) => s.matches(&Labels::from([(NAMESPACE.to_owned(), p.namespace.clone())])),
            None => p.namespace == own,
        };
        let pod_fits = |p: &Pod| self.pod_selector.as_ref().is_none_or(|s| s.matches(&p.labels));
        let all: Vec<String> =
            pods.iter().filter(|p| namespace_fits(p) && pod_fits(p)).map(|p| p.address.to_string()).collect();
        Ok(if all.is_empty() { None } else { Some(format!("ip {field} {{ {} }}", all.join(", "))) })
    }
}

/// What one rule of a policy lets through, line by line.
fn passes(peers: &[Peer], ports: &[Port], field: &str, own: &str, pods: &[Pod]) -> Result<Vec<String>> {
    let any = vec![String::new()];
    let ports = if ports.is_empty() { any.clone() } else { ports.iter().map(Port::rule).collect() };
    let mut from = any;
    if !peers.is_empty() {
        let all: Result<Vec<Option<String>>> = peers.iter().map(|p| p.addresses(field, own, pods)).collect();
        from = all?.into_iter().flatten().collect();
    }
    Ok(from.iter().flat_map(|f| ports.iter().map(move |p| format!("{f} {p} return"))).collect())
}

/// The table that enforces the policies for these pods.
pub fn table(policies: &[Value], pods: &[Pod]) -> Result<String> {
    let mut parsed = Vec::new();
    for p in policies {
        let name = p["metadata"]["name"].as_str().unwrap_or_default();
        let spec: Spec = serde_json::from_value(p["spec"].clone()).with_context(|| name.to_owned())?;
        parsed.push((p["metadata"]["namespace"].as_str().unwrap_or_default(), spec));
    }
    let (mut chains, mut out, mut forward) = (String::new(), String::new(), String::new());
    for pod in pods {
        let id = pod.address.to_string().replace('.', "_");
        for direction in [Direction::Egress, Direction::Ingress] {
            let holds = |s: &Spec| s.policy_types.contains(&direction) && s.pod_selector.matches(&pod.labels);
            let here: Vec<_> = parsed.iter().filter(|(ns, s)| *ns == pod.namespace && holds(s)).collect();
            if here.is_empty() {
                continue; // what no policy selects is free
            }
            let mut lines = Vec::new();
            for (own, s) in here {
                match direction {
                    Direction::Egress => {
                        for r in &s.egress {
                            lines.extend(passes(&r.to, &r.ports, "daddr", own, pods)?);
                        }
                    }
                    Direction::Ingress => {
                        for r in &s.ingress {
                            lines.extend(passes(&r.from, &r.ports, "saddr", own, pods)?);
                        }
                    }
                }
            }
            let (name, mine) = match direction {
                Direction::Egress => (format!("from_{id}"), "saddr"),
                Direction::Ingress => (format!("to_{id}"), "daddr"),
            };
            let jump = format!("    ip {mine} {} jump {name}\n", pod.address);
            forward += &jump;
            if direction == Direction::Egress {
                out += &jump;
            }
            let body: String = lines.iter().map(|l| format!("    {l}\n")).collect();
            chains += &format!("  chain {name} {{\n{body}    counter drop\n  }}\n");
        }
    }
    let hook = |name: &str, jumps: &str| {
        let begin = format!(
            "    type filter hook {name} priority 10; policy accept\n    ct state established,related accept\n"
        );
        format!("  chain {name} {{\n{begin}{jumps}  }}\n")
    };
    // A pod that talks to its own node is forwarded nowhere.
    Ok(format!("table inet policies {{\n{chains}{}{}}}\n", hook("forward", &forward), hook("input", &out)))
}
