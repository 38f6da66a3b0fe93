//! Kinds, and where objects come from: a standalone operator's state directory, or the cluster of the kubeconfig.

use crate::client::standalone_objects;
use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;
use std::path::PathBuf;

#[derive(Args, Clone, Debug)]
pub struct SourceArgs {
    /// State directory of a standalone operator; without it, the cluster of the kubeconfig
    #[arg(long, env = "MEW_STATE", global = true)]
    pub state: Option<PathBuf>,
    /// Namespace; absent, that of the kubeconfig's context
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Context of the kubeconfig
    #[arg(long)]
    pub context: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Remote,
    Sync,
    Policy,
}

impl Kind {
    pub fn parse(text: &str) -> Result<Kind> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "remote" | "remotes" | "rmt" => Kind::Remote,
            "sync" | "syncs" | "syn" => Kind::Sync,
            "policy" | "policies" | "federationpolicy" | "federationpolicies" | "fedpol" => Kind::Policy,
            _ => bail!("unknown kind {text:?}; known: remotes, syncs, policies"),
        })
    }

    fn plural(self) -> &'static str {
        match self {
            Kind::Remote => "remotes",
            Kind::Sync => "syncs",
            Kind::Policy => "policies",
        }
    }

    pub fn singular(self) -> &'static str {
        match self {
            Kind::Remote => "remote",
            Kind::Sync => "sync",
            Kind::Policy => "federationpolicy",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Kind::Remote => "Remote",
            Kind::Sync => "Sync",
            Kind::Policy => "FederationPolicy",
        }
    }

    /// The columns that kubectl shows, from the definition itself.
    pub fn columns(self) -> Vec<CustomResourceColumnDefinition> {
        let all = mew_crds::generate::definitions();
        let d = all.into_iter().find(|(_, d)| d.spec.names.kind == self.kind());
        d.and_then(|(_, d)| d.spec.versions.into_iter().next()?.additional_printer_columns).unwrap_or_default()
    }
}

/// The cluster of the kubeconfig, and the namespace that is meant.
pub async fn cluster(a: &SourceArgs) -> Result<(kube::Client, String)> {
    let known = kubeconfig(a.context.as_deref()).await;
    let (client, default) = known.context("no cluster is known; --state names a standalone operator instead")?;
    Ok((client, a.namespace.clone().unwrap_or(default)))
}

/// The cluster, and the namespace of its context.
pub async fn kubeconfig(context: Option<&str>) -> Result<(kube::Client, String)> {
    mew_tls_provider();
    let options = kube::config::KubeConfigOptions { context: context.map(str::to_owned), ..Default::default() };
    let config = kube::Config::from_kubeconfig(&options).await.context("no kubeconfig can be read")?;
    let namespace = config.default_namespace.clone();
    Ok((kube::Client::try_from(config)?, namespace))
}

pub async fn list(a: &SourceArgs, kind: Kind, name: &str) -> Result<Vec<Value>> {
    if let Some(state) = &a.state {
        let mut all = standalone_objects(state, kind.plural(), name).await?;
        if let Some(n) = a.namespace.as_deref().filter(|_| !a.all_namespaces) {
            all.retain(|o| o["metadata"]["namespace"].as_str() == Some(n));
        }
        return Ok(all);
    }
    let (client, namespace) = cluster(a).await?;
    let mut resource = ApiResource::from_gvk(&GroupVersionKind::gvk(mew_crds::GROUP, mew_crds::VERSION, kind.kind()));
    if kind == Kind::Policy {
        resource.plural = "federationpolicies".into();
    }
    let api: Api<DynamicObject> = if a.all_namespaces {
        Api::all_with(client, &resource)
    } else {
        Api::namespaced_with(client, &namespace, &resource)
    };
    let list = api.list(&ListParams::default()).await.with_context(|| format!("{} cannot be listed", kind.plural()))?;
    let wanted = |o: &DynamicObject| name.is_empty() || o.metadata.name.as_deref() == Some(name);
    list.items.iter().filter(|o| wanted(o)).map(|o| Ok(serde_json::to_value(o)?)).collect()
}

fn mew_tls_provider() {
    // kube picks the process-wide provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The paths that printer columns use: `.a.b` and `[?(@.type=="X")]`.
pub fn json_path<'v>(v: &'v Value, path: &str) -> Option<&'v Value> {
    let mut here = v;
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(r) = rest.strip_prefix("[?(@.") {
            let (test, after) = r.split_once(")]")?;
            let (key, want) = test.split_once("==")?;
            let want = want.trim_matches('"');
            here = here.as_array()?.iter().find(|x| x.get(key).and_then(Value::as_str) == Some(want))?;
            rest = after;
        } else {
            let r = rest.strip_prefix('.')?;
            let end = r.find(['.', '[']).unwrap_or(r.len());
            here = here.get(&r[..end])?;
            rest = &r[end..];
        }
    }
    Some(here)
}
