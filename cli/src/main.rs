//! `mew`: the operator, the agent, and the commands that people type. Also `kubectl mew`, if installed as `kubectl-mew`.

// It panics when nobody reads any longer; see `out`.
#![warn(clippy::print_stdout)]

mod client;
mod crds;
mod demo;
mod docs;
mod get;
mod inject;
mod objects;
mod out;
mod process;
mod rotate;
mod statements;
mod store;
mod table;
mod trust;
mod validate;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use mew_agent::{AgentOptions, OperatorAddress};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
#[command(
    name = "mew",
    version,
    about = "Declare which graph data flows between which kernels, and see that it does",
    propagate_version = true
)]
struct Cli {
    /// Log what the program does; RUST_LOG refines it.
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Two kernels, two operators, real data, one flow: on this machine, now
    Demo(demo::DemoArgs),
    /// The operator on a directory of manifests, without Kubernetes
    Run(RunArgs),
    /// The operator on Kubernetes
    Operator(Box<OperatorArgs>),
    /// An agent: a kernel and its links to peers
    Agent(Box<AgentArgs>),
    /// Tables of remotes, syncs and policies
    Get(get::GetArgs),
    /// One object with all its conditions
    Describe(get::DescribeArgs),
    /// Exchange of trust with another organisation
    #[command(subcommand)]
    Trust(trust::TrustCommand),
    /// Give the pods of manifests their agents, as the operator's webhook does
    Inject(Box<inject::InjectArgs>),
    /// Check manifests, ontologies and statements without running anything
    Validate(validate::ValidateArgs),
    /// Run a statement and show its rows
    Query(statements::StatementArgs),
    /// Run a statement or a file of statements
    Exec(statements::StatementArgs),
    /// Run a statement once for each row of a CSV file
    Load(statements::LoadArgs),
    /// Entities that arrived and cannot be applied yet
    Held(statements::RecordArgs),
    /// Conflicting versions, with what became of them
    Conflicts(statements::RecordArgs),
    /// What is kept on disk: back up, restore, check, dump, compact
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Print the CustomResourceDefinitions
    Crds(crds::CrdArgs),
    /// Write the generated pages of the documentation
    #[command(hide = true)]
    Docs(docs::DocsArgs),
}

#[derive(Args)]
struct RunArgs {
    /// A directory of manifests, or a file; may be given several times
    #[arg(long, required = true)]
    manifests: Vec<PathBuf>,
    /// Where certificates, status and the socket are kept
    #[arg(long)]
    state: PathBuf,
    /// Namespace of objects that name none, and of the kernels
    #[arg(long, default_value = "default")]
    namespace: String,
    /// Trust domain whose identities this operator signs
    #[arg(long, value_parser = domain)]
    trust_domain: String,
    /// How long agents' certificates are valid, from 6s to 8760h; they are renewed after a third of it
    #[arg(long, default_value = "72h", value_parser = lifetime)]
    certificate_lifetime: Duration,
    #[arg(long, hide = true)]
    die_with: Option<u32>,
}

#[derive(Args)]
struct OperatorArgs {
    /// Absent: the cluster that the process runs in, or KUBECONFIG
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Trust domain whose identities this operator signs
    #[arg(long, env = "MEW_TRUST_DOMAIN", value_parser = domain)]
    trust_domain: String,
    /// Namespace of the operator: CA, roots and Lease are kept there
    #[arg(long, env = "POD_NAMESPACE", default_value = "mew-system")]
    namespace: String,
    /// A namespace whose objects count; may be given several times. All namespaces if absent
    #[arg(long = "watch-namespace", value_name = "NAMESPACE")]
    watched: Vec<String>,
    /// Where agents attach
    #[arg(long, default_value = "[::]:9443")]
    listen: SocketAddr,
    /// Address of /live, /ready and /metrics
    #[arg(long, default_value = "127.0.0.1:9465")]
    health: SocketAddr,
    /// Name of this replica in the Lease
    #[arg(long, env = "POD_NAME", default_value = "")]
    identity: String,
    /// A name under which agents reach this operator; may be given several times
    #[arg(long)]
    dns: Vec<String>,
    /// How long agents' certificates are valid, from 6s to 8760h; they are renewed after a third of it
    #[arg(long, default_value = "72h", value_parser = lifetime)]
    certificate_lifetime: Duration,
    #[command(flatten)]
    webhook: inject::WebhookArgs,
    #[arg(long, hide = true)]
    die_with: Option<u32>,
}

#[derive(Args)]
struct AgentArgs {
    /// Name of the kernel that this agent holds
    #[arg(long, env = "MEW_KERNEL")]
    kernel: String,
    /// Data directory
    #[arg(long, env = "MEW_DATA")]
    data: PathBuf,
    /// The data ends with this agent: wait for another one with other data to end, instead of being in its way
    #[arg(long, env = "MEW_EPHEMERAL")]
    ephemeral: bool,
    /// The ontology, a file
    #[arg(long, env = "MEW_ONTOLOGY")]
    ontology: PathBuf,
    /// A directory of certificates that Remotes name by auth.certificateRef: for each a directory with tls.crt, tls.key and
    /// perhaps ca.crt, as Secrets are mounted
    #[arg(long, env = "MEW_CERTIFICATES")]
    certificates: Option<PathBuf>,
    /// `unix:<path>` of a standalone operator, or `<host>:<port>` of one on Kubernetes
    #[arg(long, env = "MEW_OPERATOR")]
    operator: String,
    /// Trust domain of the operator, on Kubernetes
    #[arg(long, env = "MEW_TRUST_DOMAIN", default_value = "")]
    trust_domain: String,
    /// Token that tells the operator which kernel this is, on Kubernetes
    #[arg(long, env = "MEW_TOKEN_FILE", default_value = "/var/run/secrets/federation.mew.dev/token")]
    token_file: PathBuf,
    /// Roots of the operator's own trust domain, on Kubernetes
    #[arg(long, env = "MEW_ROOTS_FILE", default_value = "/var/run/federation.mew.dev/ca.crt")]
    roots_file: PathBuf,
    /// Address for applications
    #[arg(long, env = "MEW_LISTEN", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// A name besides loopback by which applications may call it over HTTP; may be given several times
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// Address for peers
    #[arg(long, env = "MEW_FEDERATION", default_value = "[::]:9001")]
    federation: SocketAddr,
    /// Address of /live, /ready and /metrics
    #[arg(long, env = "MEW_HEALTH", default_value = "127.0.0.1:9464")]
    health: SocketAddr,
    /// Pod or process, for people
    #[arg(long, env = "MEW_INSTANCE", default_value = "")]
    instance: String,
    /// Time from SIGTERM to SIGKILL, in a pod its terminationGracePeriodSeconds. Peers are sent what they have not got yet,
    /// until 5 seconds before its end
    #[arg(long, env = "MEW_GRACE_SECONDS", value_name = "SECONDS", default_value_t = 10)]
    grace_seconds: u64,
    #[arg(long, hide = true)]
    die_with: Option<u32>,
}

/// Shorter, a renewal could come too late: an agent asks after a third, and again every 2 seconds.
const MIN_LIFETIME: Duration = Duration::from_secs(6);
/// A year; the CA lives for ten.
const MAX_LIFETIME: Duration = Duration::from_secs(8760 * 3600);

fn lifetime(text: &str) -> Result<Duration, String> {
    let d = mew_crds::quantities::duration_ms(text).map(Duration::from_millis);
    d.filter(|d| (MIN_LIFETIME..=MAX_LIFETIME).contains(d))
        .ok_or_else(|| "a duration from 6s to 8760h is needed, such as 72h".to_owned())
}

/// What Remotes of peers may say in `peer.trustDomain`.
fn domain(text: &str) -> Result<String, String> {
    let what = "lower-case letters, digits, '.', '-' and '_', such as eu.example.com";
    if mew_crds::common::is_trust_domain(text) { Ok(text.to_owned()) } else { Err(format!("a trust domain is {what}")) }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let serves = matches!(cli.command, Command::Run(_) | Command::Agent(_) | Command::Operator(_));
    log(cli.verbose, serves);
    let rt = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(rt) => rt,
        Err(e) => {
            eprintln!("error: {e}");
            return ExitCode::FAILURE;
        }
    };
    let r = rt.block_on(run(cli.command));
    // A blocking call that hangs must not keep the process.
    rt.shutdown_timeout(Duration::from_secs(2));
    match r {
        Ok(code) => code,
        Err(e) => {
            eprintln!("{}", out::failure(&e));
            ExitCode::FAILURE
        }
    }
}

fn log(verbose: bool, serves: bool) {
    use tracing_subscriber::EnvFilter;
    let default = if verbose {
        "info,mew=debug"
    } else if serves {
        "info"
    } else {
        "warn"
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

async fn run(c: Command) -> Result<ExitCode> {
    let done = |r: Result<()>| r.map(|()| ExitCode::SUCCESS);
    match c {
        Command::Demo(a) => demo::run(a).await,
        Command::Run(a) => {
            process::die_with(a.die_with)?;
            let o = mew_files::RunOptions {
                manifests: a.manifests,
                state: a.state,
                namespace: a.namespace,
                trust_domain: a.trust_domain,
                certificate_lifetime: a.certificate_lifetime,
            };
            done(mew_files::run(o, stopped()).await)
        }
        Command::Operator(a) => {
            process::die_with(a.die_with)?;
            let a = *a;
            let identity = if a.identity.is_empty() { format!("process-{}", std::process::id()) } else { a.identity };
            let webhook = a.webhook.options(&a.trust_domain, &a.namespace)?;
            let o = mew_kube::OperatorOptions {
                kubeconfig: a.kubeconfig,
                trust_domain: a.trust_domain,
                namespace: a.namespace,
                watched: a.watched,
                listen: a.listen,
                health: a.health,
                identity,
                dns: a.dns,
                certificate_lifetime: a.certificate_lifetime,
                webhook,
            };
            done(mew_kube::run(o, stopped()).await)
        }
        Command::Agent(a) => {
            process::die_with(a.die_with)?;
            done(mew_agent::run(agent_options(*a)?, stopped()).await)
        }
        Command::Get(a) => done(get::get(a).await),
        Command::Describe(a) => done(get::describe(a).await),
        Command::Trust(t) => done(trust::run(t).await),
        Command::Inject(a) => inject::run(*a).await,
        Command::Validate(a) => validate::run(&a),
        Command::Query(a) | Command::Exec(a) => done(statements::run(a).await),
        Command::Load(a) => done(statements::load(a).await),
        Command::Held(a) => done(statements::records("held", a).await),
        Command::Conflicts(a) => done(statements::records("conflicts", a).await),
        Command::Store(c) => store::run(c).await,
        Command::Crds(a) => done(crds::run(&a)),
        Command::Docs(a) => done(docs::run(&a)),
    }
}

fn agent_options(a: AgentArgs) -> Result<AgentOptions> {
    let operator = match a.operator.parse::<OperatorAddress>() {
        Ok(o) => o,
        Err(_) => {
            let (host, port) = a.operator.rsplit_once(':').ok_or_else(|| {
                anyhow::anyhow!("--operator {:?} is neither unix:<path> nor <host>:<port>", a.operator)
            })?;
            let port = port
                .parse::<u16>()
                .map_err(|_| anyhow::anyhow!("--operator {:?} has no port at its end", a.operator))?;
            anyhow::ensure!(!a.trust_domain.is_empty(), "--trust-domain is needed with an operator on Kubernetes");
            OperatorAddress::Tls {
                host: host.to_owned(),
                port,
                trust_domain: a.trust_domain,
                token: a.token_file,
                roots: a.roots_file,
            }
        }
    };
    let instance = if a.instance.is_empty() { format!("process {}", std::process::id()) } else { a.instance };
    Ok(AgentOptions {
        kernel: a.kernel,
        data: a.data,
        ephemeral: a.ephemeral,
        ontology: a.ontology,
        certificates: a.certificates,
        operator,
        listen: a.listen,
        hosts: a.hosts,
        federation: a.federation,
        health: a.health,
        instance,
        grace: Duration::from_secs(a.grace_seconds),
    })
}

/// Ends with the first SIGTERM or SIGINT.
fn stopped() -> CancellationToken {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        process::terminated().await;
        token.cancel();
    });
    stop
}
