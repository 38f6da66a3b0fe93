//! A network that is private to this process: it is the machine of the control plane, behind it is a node, and behind that the
//! pods and what is outside of the cluster, each in a network namespace of its own. All of it ends with this process.

use anyhow::{Context, Result, bail, ensure};
use mew_tests::cluster::PATIENCE;
use mew_tests::output::output_within;
use mew_tests::process::{Process, behind, dying_with_us, run};
use mew_tests::wait::until;
use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Of this process.
pub const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// What a pod connects to, and what the node makes of it.
const KUBERNETES: &str = "ip daddr 10.96.0.1 tcp dport 443 dnat to 10.99.0.1:6443";
/// A packet takes no time here; this is how long one that was dropped is waited for, on a busy machine.
const DROPPED: &str = "3";
/// What timeout(1) says then.
const TIMED_OUT: i32 = 124;
const CALL: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// Who a connection is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    ControlPlane,
    /// As the kubelet does.
    Node,
    Host(&'a str),
}

pub struct Network {
    node: Space,
    hosts: BTreeMap<String, Space>,
}

/// A network namespace, which lives as long as a process in it that does nothing.
struct Space(Process);

impl Space {
    fn start(name: &str, logs: &Path) -> Result<Self> {
        let mut c = dying_with_us(Path::new("unshare"));
        c.args(["--net", "--", "sleep", "infinity"]);
        let mut process = Process::start(name, c, logs)?;
        let theirs = format!("/proc/{}/ns/net", process.pid());
        let ours = fs::read_link("/proc/self/ns/net")?;
        until("a network namespace", PATIENCE, || {
            process.check()?;
            Ok(fs::read_link(&theirs).is_ok_and(|n| n != ours).then_some(()))
        })?;
        Ok(Space(process))
    }

    /// The same command, in there.
    fn inside(&self, command: &Command) -> Command {
        let mut c = Command::new("nsenter");
        c.args(["--target", &self.0.pid().to_string(), "--net", "--"]);
        behind(c, command)
    }
}

/// One that ends by itself.
fn done(c: Command, stdin: &str) -> Result<()> {
    output_within(c, stdin, CALL).map(drop)
}

/// `ip` with these words.
fn ip(words: &str) -> Command {
    let mut c = Command::new("ip");
    c.args(words.split(' '));
    c
}

impl Network {
    /// Hosts by name and address. Each has a network of 256 addresses with the node, which is the first of them.
    pub fn start(hosts: &[(&str, Ipv4Addr)], logs: &Path) -> Result<Self> {
        done(ip("link set lo up"), "")?;
        let node = Space::start("node", logs)?;
        done(ip(&format!("link add dev node type veth peer name eth0 netns {}", node.0.pid())), "")?;
        done(ip(&format!("addr add {CONTROL_PLANE}/24 dev node")), "")?;
        done(ip("link set node up"), "")?;
        for words in ["link set lo up", &format!("addr add {NODE}/24 dev eth0"), "link set eth0 up"] {
            done(node.inside(&ip(words)), "")?;
        }
        done(ip(&format!("route add default via {NODE}")), "")?;
        let mut forward = Command::new("sh");
        forward.args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
        done(node.inside(&forward), "")?;
        let mut network = Network { node, hosts: BTreeMap::new() };
        for (name, address) in hosts {
            let host = network.attached(name, *address, logs)?;
            network.hosts.insert((*name).to_owned(), host);
        }
        network.enforce("")?;
        Ok(network)
    }

    fn attached(&self, name: &str, address: Ipv4Addr, logs: &Path) -> Result<Space> {
        let host = Space::start(name, logs)?;
        let [a, b, c, _] = address.octets();
        let (gateway, link) = (Ipv4Addr::new(a, b, c, 1), format!("host{}", self.hosts.len()));
        let (theirs, here) = (host.0.pid(), self.node.0.pid());
        done(ip(&format!("link add dev {link} netns {here} type veth peer name eth0 netns {theirs}")), "")?;
        for words in [format!("addr add {gateway}/24 dev {link}"), format!("link set {link} up")] {
            done(self.node.inside(&ip(&words)), "")?;
        }
        for words in ["link set lo up", &format!("addr add {address}/24 dev eth0"), "link set eth0 up"] {
            done(host.inside(&ip(words)), "")?;
        }
        done(host.inside(&ip(&format!("route add default via {gateway}"))), "")?;
        Ok(host)
    }

    /// Puts the policies' table in the place of what is there.
    pub fn enforce(&self, table: &str) -> Result<()> {
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]);
        let hook = "type nat hook prerouting priority dstnat";
        let services = format!("table ip services {{\n  chain prerouting {{\n    {hook}\n    {KUBERNETES}\n  }}\n}}\n");
        let text = format!("flush ruleset\n{services}{table}");
        done(self.node.inside(&nft), &text).with_context(|| text)
    }

    /// The same command, as a process of this host.
    pub fn on(&self, host: &str, command: &Command) -> Result<Command> {
        Ok(self.hosts.get(host).with_context(|| format!("there is no host {host}"))?.inside(command))
    }

    fn of(&self, from: Origin, command: Command) -> Result<Command> {
        match from {
            Origin::ControlPlane => Ok(command),
            Origin::Node => Ok(self.node.inside(&command)),
            Origin::Host(name) => self.on(name, &command),
        }
    }

    /// Whether a packet arrives: somebody answers, if only to say that nobody listens.
    pub fn reaches(&self, from: Origin, to: Ipv4Addr, port: u16, protocol: Protocol) -> Result<bool> {
        let script = match protocol {
            Protocol::Tcp => format!("exec 3<>/dev/tcp/{to}/{port}"),
            Protocol::Udp => format!("exec 3<>/dev/udp/{to}/{port}; echo >&3; read -r -u 3"),
        };
        let mut c = Command::new("timeout");
        c.args([DROPPED, "bash", "-c", &script]).env("LC_ALL", "C");
        let out = run(self.of(from, c)?, "", CALL)?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        match out.status.code() {
            Some(0) => Ok(true),
            Some(TIMED_OUT) => Ok(false),
            _ if said.contains("Connection refused") => Ok(true),
            _ => bail!("{from:?} to {to}:{port}: {}", said.trim()),
        }
    }

    /// What a server there answers to a request over HTTP, its status included.
    pub fn get(&self, from: Origin, to: Ipv4Addr, port: u16, path: &str) -> Result<String> {
        let request = format!("GET {path} HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n");
        let mut c = Command::new("timeout");
        c.args([DROPPED, "bash", "-c", &format!("exec 3<>/dev/tcp/{to}/{port}; printf '{request}' >&3; cat <&3")]);
        let text = output_within(self.of(from, c)?, "", CALL)?;
        ensure!(text.starts_with("HTTP/1.1 "), "{to}:{port} speaks no HTTP: {text:?}");
        Ok(text)
    }

    /// Of the node.
    pub fn node_address(&self) -> Ipv4Addr {
        NODE
    }
}
