//! `mew trust`: what two organisations give each other. No secret is in it.

use crate::objects::{SourceArgs, cluster};
use crate::out;
use crate::rotate::{self, RotateArgs};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Subcommand)]
pub enum TrustCommand {
    /// Print this side's trust bundle and a Remote stub for the other side to commit
    Export(ExportArgs),
    /// Keep the bundle that the other side exported (standalone operator)
    Import(ImportArgs),
    /// Replace this side's CA: publish another one, let it sign, retire the old one
    Rotate(RotateArgs),
}

#[derive(Args)]
pub struct ExportArgs {
    /// The kernel that the other side shall reach
    #[arg(long)]
    kernel: String,
    /// Address under which the other side reaches its federation port, if it is known already
    #[arg(long)]
    address: Option<String>,
    /// Trust domain of this side, needed only if its CA names none; a cluster's operator says it by itself
    #[arg(long)]
    trust_domain: Option<String>,
    /// Namespace of the operator in the cluster
    #[arg(long, default_value = "mew-system")]
    operator_namespace: String,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Args)]
pub struct ImportArgs {
    /// The file that the other side exported
    file: PathBuf,
    /// State directory of the standalone operator
    #[arg(long, env = "MEW_STATE")]
    state: PathBuf,
}

pub async fn run(t: TrustCommand) -> Result<()> {
    match t {
        TrustCommand::Export(a) => {
            let side = match &a.source.state {
                Some(state) => of_directory(&a, state)?,
                None => of_cluster(&a).await?,
            };
            out::line(export(&a, &side));
            let fingerprints = mew_tls::fingerprints(&side.roots).context("the CA certificate cannot be read")?;
            eprintln!(
                "root fingerprint (SHA-256), to confirm with the other side by another way:\n  {}",
                fingerprints.join("\n  ")
            );
            Ok(())
        }
        TrustCommand::Import(a) => {
            let text = std::fs::read_to_string(&a.file).with_context(|| a.file.display().to_string())?;
            for name in mew_files::import(&a.state, &a.file.display().to_string(), &text)? {
                out::line(format!("imported trust bundle {name}"));
            }
            Ok(())
        }
        TrustCommand::Rotate(a) => rotate::run(a).await,
    }
}

/// Whose trust is exported.
struct Side {
    namespace: String,
    trust_domain: String,
    roots: String,
}

fn of_directory(a: &ExportArgs, state: &Path) -> Result<Side> {
    let namespace = a.source.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let (trust_domain, kept) = mew_files::kept_authorities(state, a.trust_domain.as_deref())?;
    Ok(Side { namespace, roots: kept.bundle(), trust_domain })
}

async fn of_cluster(a: &ExportArgs) -> Result<Side> {
    let (client, namespace) = cluster(&a.source).await?;
    let p = mew_kube::published(client, &a.operator_namespace).await?;
    match a.trust_domain.as_ref().filter(|t| **t != p.trust_domain) {
        Some(t) => bail!("the operator in {} is of the trust domain {}, not {t}", a.operator_namespace, p.trust_domain),
        None => Ok(Side { namespace, trust_domain: p.trust_domain, roots: p.roots }),
    }
}

fn export(a: &ExportArgs, side: &Side) -> String {
    let namespace = &side.namespace;
    let name = mew_files::bundle_name(&side.trust_domain);
    let pem: String = side.roots.trim_end().lines().map(|l| format!("    {l}\n")).collect();
    let kernel_id = format!("{namespace}.{}", a.kernel);
    format!(
        "# Trust bundle of {domain}: public certificates only.
apiVersion: v1
kind: ConfigMap
metadata:
  name: {name}
  namespace: {namespace}
data:
  ca.crt: |
{pem}---
# A stub: choose your own kernel and add what {kernel_id} may do. Without permissions nothing flows.
# apiVersion: federation.mew.dev/v1alpha1
# kind: Remote
# metadata: {{name: {kernel}, namespace: {namespace}}}
# spec:
#   kernelRef: {{name: <your kernel>}}
#   uri: mew://{address}/{kernel_id}
#   peer:
#     trustDomain: {domain}
#     trustBundleRefs: [{{kind: ConfigMap, name: {name}}}]
",
        domain = side.trust_domain,
        kernel = a.kernel,
        address = a.address.as_deref().unwrap_or("<host>:<port>"),
    )
    .trim_end()
    .to_owned()
}
