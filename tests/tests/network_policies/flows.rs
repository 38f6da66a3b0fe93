//! Every way that something of ours needs, and those beside it that must be closed.

use crate::network::Origin::{self, ControlPlane, Host, Node};
use crate::network::Protocol::{self, Tcp, Udp};

pub struct Flow {
    pub from: Origin<'static>,
    pub to: (&'static str, u16),
    pub protocol: Protocol,
    /// With values as narrow as the charts can be told, and as wide as they are by default.
    pub passes: (bool, bool),
    pub what: &'static str,
}

const fn tcp(from: Origin<'static>, to: (&'static str, u16), passes: (bool, bool), what: &'static str) -> Flow {
    Flow { from, to, protocol: Tcp, passes, what }
}

const fn udp(from: Origin<'static>, to: (&'static str, u16), passes: (bool, bool), what: &'static str) -> Flow {
    Flow { from, to, protocol: Udp, passes, what }
}

const BOTH: (bool, bool) = (true, true);
const NEITHER: (bool, bool) = (false, false);
const WIDE: (bool, bool) = (false, true);

/// Hosts are those of [`crate::HOSTS`]; `agent` is a pod with an injected agent, for which the charts have no policy.
pub const FLOWS: &[Flow] = &[
    // Into the operator.
    tcp(Host("agent"), ("operator", 9443), BOTH, "attachment from a watched namespace"),
    tcp(Host("kernel"), ("operator", 9443), BOTH, "attachment of a kernel on its own"),
    tcp(Host("elsewhere"), ("operator", 9443), WIDE, "attachment from a namespace that only the wide operator watches"),
    tcp(Host("plain"), ("operator", 9443), NEITHER, "attachment of a pod without an agent"),
    tcp(Host("prometheus"), ("operator", 9443), NEITHER, "attachment from where only metrics are read"),
    tcp(Host("stranger"), ("operator", 9443), NEITHER, "attachment from outside"),
    tcp(ControlPlane, ("operator", 9444), BOTH, "the webhook"),
    tcp(
        Host("stranger"),
        ("operator", 9444),
        BOTH,
        "the webhook's port, as clusters do not tell where API servers are",
    ),
    tcp(Host("prometheus"), ("operator", 9465), BOTH, "metrics"),
    tcp(Node, ("operator", 9465), BOTH, "probes"),
    tcp(Host("agent"), ("operator", 9465), NEITHER, "metrics for an agent"),
    tcp(Host("plain"), ("operator", 9465), NEITHER, "metrics for anybody"),
    tcp(Host("stranger"), ("operator", 9465), NEITHER, "metrics for somebody outside"),
    tcp(ControlPlane, ("operator", 9465), NEITHER, "metrics for the control plane"),
    tcp(Host("agent"), ("operator", 22), NEITHER, "another port"),
    // Out of the operator.
    tcp(Host("operator"), ("control-plane", 6443), BOTH, "the API server"),
    tcp(Host("operator"), ("control-plane", 443), BOTH, "the API server, where nothing is translated"),
    tcp(Host("operator"), ("control-plane", 2379), NEITHER, "etcd"),
    tcp(Host("operator"), ("node", 10250), NEITHER, "the kubelet"),
    tcp(Host("operator"), ("dns", 53), NEITHER, "names, which it never resolves"),
    udp(Host("operator"), ("dns", 53), NEITHER, "names, which it never resolves"),
    tcp(Host("operator"), ("agent", 9000), NEITHER, "an application's kernel"),
    tcp(Host("operator"), ("kernel", 9001), NEITHER, "a peer's port"),
    tcp(Host("operator"), ("stranger", 80), NEITHER, "anything outside"),
    tcp(Host("operator"), ("stranger", 443), WIDE, "the API server's port elsewhere, unless its addresses are told"),
    // Into a kernel on its own.
    tcp(Host("peer"), ("kernel", 9001), BOTH, "a peer outside"),
    tcp(Host("agent"), ("kernel", 9001), BOTH, "a peer in the cluster"),
    tcp(Host("stranger"), ("kernel", 9001), WIDE, "another one outside, unless peers are told"),
    tcp(Host("plain"), ("kernel", 9000), NEITHER, "clients of another namespace"),
    tcp(Host("client"), ("kernel", 9000), WIDE, "clients, once they are let in"),
    tcp(Host("peer"), ("kernel", 9000), NEITHER, "clients outside"),
    tcp(Host("prometheus"), ("kernel", 9464), BOTH, "metrics"),
    tcp(Node, ("kernel", 9464), BOTH, "probes"),
    tcp(Host("client"), ("kernel", 9464), NEITHER, "metrics for anybody"),
    tcp(Host("peer"), ("kernel", 9464), NEITHER, "metrics for a peer"),
    // Out of a kernel on its own.
    udp(Host("kernel"), ("dns", 53), BOTH, "names"),
    tcp(Host("kernel"), ("dns", 53), BOTH, "names"),
    tcp(Host("kernel"), ("peer", 9001), BOTH, "a peer outside"),
    tcp(Host("kernel"), ("agent", 9001), BOTH, "a peer in the cluster"),
    tcp(Host("kernel"), ("stranger", 9001), WIDE, "another one outside, unless peers are told"),
    udp(Host("kernel"), ("stranger", 9001), NEITHER, "another protocol"),
    tcp(Host("kernel"), ("operator", 9465), NEITHER, "the operator's metrics"),
    tcp(Host("kernel"), ("control-plane", 6443), WIDE, "the API server, unless peers are told"),
    // What no policy selects.
    tcp(Host("agent"), ("stranger", 443), BOTH, "a pod with an injected agent is not ours to limit"),
    tcp(Host("plain"), ("agent", 9001), BOTH, "nor is who connects to it"),
    tcp(Host("kernel"), ("node", 10250), WIDE, "the kubelet, unless peers are told"),
];
