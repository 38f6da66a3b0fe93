//! The objects of a fleet: so many Syncs, a hundred to a Remote, a kernel to each Remote, ten kernels to a namespace.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use mew_crds::{FederationPolicy, Remote, Sync as SyncObject};
use mew_tests::apiserver::ApiServer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;

pub const DOMAIN: &str = "fleet.example";
const SYNCS_PER_REMOTE: usize = 100;
const REMOTES_PER_NAMESPACE: usize = 10;
/// Objects that are created at once.
const PARALLEL: usize = 16;
const ACCOUNT: &str = "agents";
const TOKEN_SECONDS: i64 = 24 * 3600;

/// How many there are of what, and what they are called.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub syncs: usize,
    pub remotes: usize,
}

impl Layout {
    pub fn new(syncs: usize) -> Self {
        Layout { syncs, remotes: syncs.div_ceil(SYNCS_PER_REMOTE) }
    }

    pub fn objects(self) -> usize {
        self.syncs + self.remotes
    }

    fn namespaces(self) -> usize {
        self.remotes.div_ceil(REMOTES_PER_NAMESPACE)
    }

    /// Of a Remote, its kernel and its Syncs.
    pub fn namespace(self, remote: usize) -> String {
        format!("fleet-{}", remote / REMOTES_PER_NAMESPACE)
    }

    /// Of a Remote, and of the kernel that it belongs to.
    pub fn remote(self, remote: usize) -> String {
        format!("r-{remote}")
    }

    /// Namespace and name.
    pub fn sync(self, sync: usize) -> (String, String) {
        let remote = sync / SYNCS_PER_REMOTE;
        (self.namespace(remote), format!("s-{remote}-{sync}"))
    }
}

/// The Remote that an object is about, by its `namespace/name`.
pub fn remote_of(name: &str) -> Option<usize> {
    name.split_once('/')?.1.split('-').nth(1)?.parse().ok()
}

pub fn is_remote(name: &str) -> bool {
    name.split_once('/').is_some_and(|(_, n)| n.starts_with("r-"))
}

/// No two flows of a Remote are the same.
pub fn pattern(n: usize) -> String {
    format!("t: Task WHERE t.n = {n}")
}

/// Namespaces with a policy and a service account each.
pub async fn namespaces(api: &ApiServer, client: &Client, l: Layout) -> Result<()> {
    for n in 0..l.namespaces() {
        let ns = l.namespace(n * REMOTES_PER_NAMESPACE);
        api.create_namespace(&ns)?;
        api.create_service_account(&ns, ACCOUNT)?;
        let rule = json!({"name": "tasks", "action": "Allow", "operations": ["Export"], "types": ["Task"]});
        create::<FederationPolicy>(client, &ns, "tasks", json!({"remoteSelector": {}, "rules": [rule]})).await?;
    }
    Ok(())
}

/// A token of the kernel of each Remote.
pub async fn tokens(client: &Client, l: Layout) -> Result<Vec<String>> {
    let token = |r: usize| async move {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &l.namespace(r));
        let audience = format!("federation.mew.dev/{DOMAIN}/kernel/{}", l.remote(r));
        let spec = TokenRequestSpec {
            audiences: vec![audience],
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let made = accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await?;
        anyhow::Ok(made.status.context("a request for a token without an answer")?.token)
    };
    stream::iter((0..l.remotes).map(token)).buffered(PARALLEL).try_collect().await
}

pub async fn declare(client: &Client, l: Layout) -> Result<()> {
    let remotes = (0..l.remotes).map(anyhow::Ok);
    stream::iter(remotes)
        .try_for_each_concurrent(PARALLEL, |r| async move {
            let spec = json!({
                "kernelRef": {"name": l.remote(r)},
                "uri": format!("mew://127.0.0.1:9001/peer.{}", l.remote(r)),
                "connectionMode": "Dial",
                "peer": {"trustDomain": DOMAIN},
                "permissions": {"canReceive": [{"type": "Task"}]},
            });
            create::<Remote>(client, &l.namespace(r), &l.remote(r), spec).await
        })
        .await?;
    let syncs = (0..l.syncs).map(anyhow::Ok);
    stream::iter(syncs)
        .try_for_each_concurrent(PARALLEL, |s| async move {
            let (ns, name) = l.sync(s);
            let remote = l.remote(s / SYNCS_PER_REMOTE);
            let spec = json!({"remoteRef": {"name": remote}, "direction": "Push", "match": pattern(s)});
            create::<SyncObject>(client, &ns, &name, spec).await
        })
        .await
}

async fn create<K>(client: &Client, namespace: &str, name: &str, spec: Value) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
{
    let object = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()),
                        "metadata": {"namespace": namespace, "name": name}, "spec": spec});
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let made = api.create(&PostParams::default(), &serde_json::from_value(object)?).await;
    made.map(|_| ()).with_context(|| format!("{namespace}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_remote_they_are_about() {
        let l = Layout::new(1_050);
        assert_eq!((l.remotes, l.namespaces(), l.objects()), (11, 2, 1_061));
        let (ns, name) = l.sync(1_049);
        let full = format!("{ns}/{name}");
        assert_eq!((full.as_str(), remote_of(&full), is_remote(&full)), ("fleet-1/s-10-1049", Some(10), false));
        let remote = format!("{}/{}", l.namespace(3), l.remote(3));
        assert_eq!((remote_of(&remote), is_remote(&remote)), (Some(3), true));
    }
}
