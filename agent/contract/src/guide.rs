//! What each reason means and what to do about it: the source of the pages in `docs/reasons`.

use crate::Reason;

/// (what it means, what to do).
pub fn guide(r: Reason) -> (&'static str, &'static str) {
    use Reason::*;
    match r {
        Accepted => ("The spec is sound by itself and no policy of this side forbids it.", "Nothing."),
        Resolved => ("Everything that the object refers to exists and fits.", "Nothing."),
        Programmed => ("The agent has confirmed the configuration that holds this version of the object.", "Nothing."),
        Connected => ("The connection to the peer is up, and both ends have verified each other.", "Nothing."),
        InSync => (
            "Every matching change of the source is durable at the sink, or younger than `maxLag`.",
            "Nothing, unless the message says that the source does not know what the sink had before: then compare both sides, delete at the sink what the source has not, and request a reset of the Sync (annotation `federation.mew.dev/reset`), which copies everything anew and ends the message.",
        ),
        InSyncWithFailures => (
            "The flow works, and some entities could not be applied at the sink: they are held there, durable and counted, and are tried again when what blocks them changes; or they were refused for good.",
            "On the sink's side run `mew held`: it names each entity, why it waits and for what. A missing end arrives when its entity does; a clash of unique values needs one of the two to change. [Held entities](../concepts.md#held-entities) says what helps for each reason.",
        ),
        Enforced => ("The policy is in force.", "Nothing."),
        Suspended => (
            "`suspend: true` stopped the flow or the connection. The position is kept.",
            "Set `suspend` to false or remove it; the flow goes on where it was.",
        ),
        Pending => (
            "The agent has been told and has not confirmed yet. Or it keeps the configuration that it has, as not all of that is declared again after a CustomResourceDefinition was deleted: then the message names what is missing, and the time when it counts as withdrawn.",
            "Wait a second. If it stays, look at the agent's log and its `/ready`. If the message says that the agent keeps what it has, apply what it names, or wait until the time that it names.",
        ),
        Connecting => (
            "A connection is being made, or the peer has not answered for this flow yet.",
            "Wait. If it stays, the peer's agent may be down or its Remote for this kernel missing.",
        ),
        WaitingForPeer => (
            "`connectionMode: Accept`: the peer opens the connection and has not done so yet.",
            "Check the peer's Remote: it must name this address with `connectionMode: Dial`.",
        ),
        InitialCopy => (
            "Entities that existed when the flow began are being copied; the message says how far. It is said again after a reset, and when the pattern, permissions or `edges` have changed; a flow that was complete says its lag after a restart or an outage.",
            "Wait.",
        ),
        DeniedByPeer => (
            "The peer refuses the flow by its own policies or permissions. It tells this side only a correlation id.",
            "Give the correlation id to the peer's people: their Remote's `status.inboundFlows.denials` holds the reason. The flow is tried again by itself when their rules change.",
        ),
        NoAgent => (
            "No agent of the kernel is attached to the operator.",
            "Start a workload with the label `federation.mew.dev/kernel`, or the agent itself; check that it reaches the operator.",
        ),
        AgentUnresponsive => (
            "The agent has not reported for 30 seconds. Data may flow or not: this side does not know.",
            "Look at the agent's process and log, and at the way from it to the operator.",
        ),
        InvalidSpec => (
            "A field breaks a rule of its kind; the message names it.",
            "Correct the field. `mew validate FILE` shows the same before anything is applied.",
        ),
        InvalidPattern => (
            "`spec.match` is not a pattern. It has one variable, its own attributes and constants: `t: Task WHERE t.shared = true`, or `_: any` for every node.",
            "Correct it; the message gives the column. `mew validate FILE --ontology FILE` shows it with a caret.",
        ),
        UnsupportedField => (
            "The agent is older than the operator and does not know a field of this object. It refuses the whole object rather than ignore what might be a restriction.",
            "Update the agent, or remove the field.",
        ),
        PolicyDenied => (
            "A FederationPolicy of this side forbids it: a mode that does not let the peer pass, a block, a Deny rule, or no Allow rule for the type. The message names policy and rule.",
            "If it should flow, add the peer to `allowedKernels` or an Allow rule for the type and operation. Deny and block win over every Allow.",
        ),
        PermissionDenied => (
            "The Remote's `permissions` of this side do not list the type: `canReceive` for what the peer gets, `canSend` for what it gives.",
            "If it should flow, add the type to the list.",
        ),
        RemoteNotFound => (
            "The Sync names a Remote that does not exist in its namespace.",
            "Create the Remote; the flow goes on at its last position.",
        ),
        RemoteNotAccepted => {
            ("The Remote that the Sync names is not accepted itself.", "Look at the Remote's conditions.")
        }
        BundleNotFound => (
            "A ConfigMap in `peer.trustBundleRefs` does not exist, lacks the key, or holds no certificate; or a foreign trust domain has no bundle at all.",
            "Commit the file that the peer's `mew trust export` printed, or run `mew trust import` (standalone).",
        ),
        TypeUnknown => (
            "The pattern names a type that this kernel's ontology lacks.",
            "Correct the name (the message suggests one) or add the type to the ontology.",
        ),
        OntologyMismatch => (
            "The two ontologies do not fit for the synced types: the sink lacks a type or attribute, or is stricter than the source. The message lists every difference. As a condition of a Remote: the ontology that the agent's file says is refused, and the message says for what.",
            "Make the sink's ontology at least as wide: same types and kinds, no narrower range or enum, nothing required or unique that is not so at the source. Of the agent's file: change it, or the data that is in the way, and restart the agent.",
        ),
        Conflicted => (
            "An older object already claims the same: the same peer, the same trust domain with other roots, the same flow; or it accepts connections with another certificate, and a kernel shows one to all who come.",
            "Delete one of the two, or make them agree.",
        ),
        IdentityMismatch => (
            "A kernel with another identity answers at the address: its certificate is genuine for what it is, but it is not the kernel that the Remote names. Or the certificate in the Secret of `auth.certificateRef` is for another kernel than this one. The message names both identities.",
            "Of a peer: check `uri` (the kernel_id at its end), `peer.trustDomain`, the address and `serverName`, which a proxy may route by. Of a Secret: its issuer must give `spiffe://<trust domain>/kernel/<kernel_id>` as the only URI name.",
        ),
        KernelClaimed => (
            "Another agent with another data directory already holds this kernel.",
            "Stop one of the two. Two agents of one kernel would write two histories under one name.",
        ),
        DNSFailed => (
            "The host name of the peer cannot be resolved.",
            "Check the name in `uri` or `endpoints` and the resolver of the agent's host.",
        ),
        Unreachable => (
            "The address does not answer, refuses, or the connection broke and could not be made again yet.",
            "Check that the peer's agent runs, its address and port, and firewalls. It is tried again by the schedule in `retry`, for ever.",
        ),
        TLSUntrustedPeer => (
            "The peer's certificate is not signed by any root that is configured for its trust domain.",
            "Ask the peer for its current bundle (`mew trust export`), compare the fingerprint by another way, and commit it. During a rotation list both bundles.",
        ),
        TLSRefusedByPeer => (
            "The peer refuses this side's certificate or connection: it has no Remote for this kernel, no roots for this trust domain or not the one that signs here now, or a policy that blocks it.",
            "Give the peer's people this side's bundle (`mew trust export`), again if this side's CA was replaced since, and ask for a Remote with `connectionMode: Accept`. `mew trust rotate status` shows which roots each peer accepts.",
        ),
        CertificateExpired => (
            "A certificate is past its end, or not valid yet because of a clock.",
            "Look at the log of the agent whose certificate it is: it renews by itself while its operator is reachable and signs, so an expired one has been cut off for two thirds of the certificate's life (two days of three, unless `--certificate-lifetime` says otherwise). One of a Secret (`auth.certificateRef`) is renewed by its issuer: look at the Secret and at what fills it. Check the clocks of both hosts.",
        ),
        CertificatePending => (
            "The agent has no certificate that it could show: its operator has not signed one yet, or the Secret of `auth.certificateRef` is not there, is not mounted, or cannot be used. The message says which.",
            "Of the operator's certificate: check that the agent reaches its operator; the agent's log says why signing fails. Of a Secret: name it in the pod's annotation `federation.mew.dev/certificates`, and look at what fills it, such as cert-manager's Certificate.",
        ),
        ProtocolMismatch => ("The two agents speak no common version of the protocol.", "Update the older one."),
        SourceReset => (
            "The source's data directory is another one than the sink's position belongs to: it was lost, replaced or restored. Going on silently could hide lost changes.",
            "Find out what was lost at the source. Then annotate the Sync with `federation.mew.dev/reset: <current time>`: the flow begins anew and everything is compared again.",
        ),
        Lagging => (
            "The oldest change that has not arrived is older than `maxLag` (60 s if absent).",
            "After an outage or a restart wait: it catches up, and PENDING in `kubectl get syncs -o wide` falls. If it does not fall, look at the sink's disk and load, and at the network. If the flow is busier than it can be, raise `maxLag` or narrow the pattern.",
        ),
        SinkError => (
            "The sink cannot store what it is sent; most often its disk is full.",
            "Free space at the sink. Nothing is lost: the flow goes on where it was.",
        ),
        SourceError => (
            "The source cannot read its own log, or a batch arrived damaged.",
            "Look at the source agent's log; it names the file and the place.",
        ),
        ClockSkew => (
            "The source's clock is more than 60 seconds ahead of the sink's. Its changes are refused until the clocks agree; nothing is lost.",
            "Correct the clocks (NTP) of both hosts. What was written under the wrong clock keeps its time: it passes when the sink's clock is within 60 seconds of it, and what was written later waits behind it.",
        ),
    }
}
