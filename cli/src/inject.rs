//! `mew inject`: manifests with their agents, as the operator's webhook would make them; and what both are told.

use crate::objects::kubeconfig;
use crate::out;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use mew_inject::{Bounds, Resources, Settings, check_roots, manifest};
use mew_kube::WebhookOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

// No comment for people here: clap would take it for the description of the commands that it is flattened into.
#[derive(Args)]
pub struct AgentPodArgs {
    /// Image of injected agents
    #[arg(long, env = "MEW_AGENT_IMAGE")]
    agent_image: Option<String>,
    /// When nodes pull it: Always, IfNotPresent or Never; absent, what follows from its tag
    #[arg(long)]
    agent_pull_policy: Option<String>,
    /// Where injected agents attach; absent, mew-operator.<namespace of the operator>.svc:9443
    #[arg(long)]
    agent_operator: Option<String>,
    /// Processor time that an agent requests if its pod says nothing; empty for none
    #[arg(long, default_value = "50m")]
    agent_cpu_request: String,
    /// Most processor time of an agent if its pod says nothing; absent, there is no limit
    #[arg(long)]
    agent_cpu_limit: Option<String>,
    /// Memory that an agent requests if its pod says nothing; empty for none
    #[arg(long, default_value = "64Mi")]
    agent_memory_request: String,
    /// Most memory of an agent if its pod says nothing; empty for no limit
    #[arg(long, default_value = "512Mi")]
    agent_memory_limit: String,
}

#[derive(Args)]
pub struct WebhookArgs {
    /// MutatingWebhookConfiguration that sends pods to this operator, which keeps its caBundle; absent, no pod is injected
    #[arg(long, requires = "agent_image")]
    webhook_configuration: Option<String>,
    /// Where the API server calls the webhook
    #[arg(long, default_value = "[::]:9444")]
    webhook_listen: SocketAddr,
    /// Service by which the API server reaches the webhook
    #[arg(long, default_value = "mew-operator-webhook")]
    webhook_service: String,
    /// Further names or addresses in the webhook's certificate
    #[arg(long)]
    webhook_dns: Vec<String>,
    #[command(flatten)]
    agent: AgentPodArgs,
}

#[derive(Args)]
pub struct InjectArgs {
    /// Manifests; `-` is standard input
    #[arg(short, long, default_value = "-")]
    filename: Vec<PathBuf>,
    /// Trust domain of the operator that the agents attach to
    #[arg(long, env = "MEW_TRUST_DOMAIN")]
    trust_domain: String,
    /// Public roots of the trust domain, a file; absent, as the operator has published them in the cluster
    #[arg(long)]
    roots: Option<PathBuf>,
    /// Namespace of the operator
    #[arg(long, default_value = "mew-system")]
    operator_namespace: String,
    /// Context of the kubeconfig
    #[arg(long)]
    context: Option<String>,
    #[command(flatten)]
    agent: AgentPodArgs,
}

impl AgentPodArgs {
    fn settings(self, trust_domain: &str, operator_namespace: &str, roots: String) -> Result<Settings> {
        let some = |s: String| (!s.is_empty()).then_some(s);
        let settings = Settings {
            trust_domain: trust_domain.to_owned(),
            operator: self.agent_operator.unwrap_or_else(|| format!("mew-operator.{operator_namespace}.svc:9443")),
            image: self.agent_image.context("--agent-image is needed")?,
            pull_policy: self.agent_pull_policy,
            resources: Resources {
                cpu: Bounds { request: some(self.agent_cpu_request), limit: self.agent_cpu_limit.and_then(some) },
                memory: Bounds { request: some(self.agent_memory_request), limit: some(self.agent_memory_limit) },
            },
            roots,
        };
        let wrong: Vec<String> = settings.check().iter().map(ToString::to_string).collect();
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        Ok(settings)
    }
}

impl WebhookArgs {
    /// `None` if no webhook is wanted.
    pub fn options(self, trust_domain: &str, namespace: &str) -> Result<Option<WebhookOptions>> {
        let Some(configuration) = self.webhook_configuration else { return Ok(None) };
        let mut names = vec![format!("{}.{namespace}.svc", self.webhook_service)];
        names.extend(self.webhook_dns);
        // The roots are the operator's own, which it knows when it runs.
        let settings = self.agent.settings(trust_domain, namespace, String::new())?;
        Ok(Some(WebhookOptions { listen: self.webhook_listen, names, configuration, settings }))
    }
}

pub async fn run(a: InjectArgs) -> Result<ExitCode> {
    let roots = match &a.roots {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
        None => published(&a).await.context("the roots are not known; name a file of them by --roots")?,
    };
    if let Some(wrong) = check_roots(&roots) {
        bail!("{wrong}");
    }
    let settings = a.agent.settings(&a.trust_domain, &a.operator_namespace, roots)?;
    let (mut all, mut wrong, mut injected) = (String::new(), Vec::new(), 0);
    for path in &a.filename {
        let (name, text) = read(path)?;
        match manifest(&name, &text, &settings) {
            Err(more) => wrong.extend(more),
            Ok(m) => {
                for w in &m.warnings {
                    eprintln!("warning: {w}");
                }
                injected += m.injected;
                append(&mut all, &m.text);
            }
        }
    }
    if !wrong.is_empty() {
        for w in &wrong {
            eprintln!("error: {w}");
        }
        return Ok(ExitCode::FAILURE);
    }
    if injected == 0 {
        eprintln!("nothing was injected: no pod has the label federation.mew.dev/kernel and no agent yet");
    }
    out::text(all);
    Ok(ExitCode::SUCCESS)
}

/// As the operator in the cluster says.
async fn published(a: &InjectArgs) -> Result<String> {
    let (client, _) = kubeconfig(a.context.as_deref()).await?;
    let p = mew_kube::published(client, &a.operator_namespace).await?;
    let (theirs, ours) = (&p.trust_domain, &a.trust_domain);
    ensure!(theirs == ours, "the operator in {} is of the trust domain {theirs}, not {ours}", a.operator_namespace);
    Ok(p.roots)
}

/// What the file is called, and what is in it.
fn read(path: &Path) -> Result<(String, String)> {
    if path.as_os_str() == "-" {
        let text = std::io::read_to_string(std::io::stdin()).context("standard input cannot be read")?;
        return Ok(("standard input".to_owned(), text));
    }
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| name.clone())?;
    Ok((name, text))
}

/// Files become documents of one stream.
fn append(all: &mut String, text: &str) {
    if !all.is_empty() {
        if !all.ends_with('\n') {
            all.push('\n');
        }
        if !text.starts_with("---") {
            all.push_str("---\n");
        }
    }
    all.push_str(text);
}
