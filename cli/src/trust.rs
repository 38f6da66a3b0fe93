//! `mew trust`: what two organisations give each other. No secret is in it.

use crate::objects::SourceArgs;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum TrustCommand {
    /// Print this side's trust bundle and a Remote stub for the other side to commit
    Export(ExportArgs),
    /// Keep the bundle that the other side exported (standalone operator)
    Import(ImportArgs),
}

#[derive(Args)]
pub struct ExportArgs {
    /// The kernel that the other side shall reach
    #[arg(long)]
    kernel: String,
    /// Address under which the other side reaches its federation port
    #[arg(long)]
    address: String,
    /// Trust domain of this side
    #[arg(long)]
    trust_domain: String,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Args)]
pub struct ImportArgs {
    file: PathBuf,
    /// State directory of the standalone operator
    #[arg(long, env = "MEW_STATE")]
    state: PathBuf,
}

pub async fn run(t: TrustCommand) -> Result<()> {
    match t {
        TrustCommand::Export(a) => {
            let Some(state) = &a.source.state else { bail!("name the state directory of the operator with --state") };
            let roots = mew_files::ca_cert(state, &a.trust_domain)?;
            println!("{}", export(&a, &roots));
            eprintln!(
                "root fingerprint (SHA-256), to confirm with the other side by another way:\n  {}",
                fingerprint(&roots)?
            );
            Ok(())
        }
        TrustCommand::Import(a) => {
            let text = std::fs::read_to_string(&a.file).with_context(|| a.file.display().to_string())?;
            for name in mew_files::import(&a.state, &a.file.display().to_string(), &text)? {
                println!("imported trust bundle {name}");
            }
            Ok(())
        }
    }
}

fn export(a: &ExportArgs, roots: &str) -> String {
    let namespace = a.source.namespace.as_deref().unwrap_or("default");
    let name = mew_files::bundle_name(&a.trust_domain);
    let pem: String = roots.trim_end().lines().map(|l| format!("    {l}\n")).collect();
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
        domain = a.trust_domain,
        kernel = a.kernel,
        address = a.address,
    )
    .trim_end()
    .to_owned()
}

/// SHA-256 of the first certificate, as other tools print it.
fn fingerprint(pem: &str) -> Result<String> {
    mew_tls::fingerprint(pem).context("the CA certificate cannot be read")
}
