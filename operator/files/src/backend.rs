//! The control service's view of a directory operator: whoever can open the socket is trusted.

use crate::RunOptions;
use crate::objects::State;
use mew_control::{Backend, Registry};
use mew_plan::KernelName;
use mew_tls::Authority;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::Status;

pub struct FilesBackend {
    options: RunOptions,
    ca: Arc<Authority>,
    registry: Arc<Registry>,
    /// Kind → objects as JSON, as of the last plan.
    published: Mutex<BTreeMap<&'static str, Vec<(String, String)>>>,
}

impl FilesBackend {
    pub fn new(options: RunOptions, ca: Arc<Authority>, registry: Arc<Registry>) -> Self {
        FilesBackend { options, ca, registry, published: Mutex::default() }
    }

    pub fn publish(&self, s: &State) {
        fn all<T: serde::Serialize>(m: &BTreeMap<String, T>) -> Vec<(String, String)> {
            m.iter().filter_map(|(n, o)| Some((n.clone(), serde_json::to_string(o).ok()?))).collect()
        }
        let mut p = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        p.insert("remotes", all(&s.objects.remotes));
        p.insert("syncs", all(&s.objects.syncs));
        p.insert("policies", all(&s.objects.policies));
        p.insert("problems", s.problems.iter().map(|x| (String::new(), x.clone())).collect());
        let agents = self.registry.states();
        let attached = agents.iter().filter(|(_, a)| a.attached);
        p.insert(
            "agents",
            attached
                .map(|(k, a)| (k.name.clone(), serde_json::to_string(&a.report.as_deref()).unwrap_or_default()))
                .collect(),
        );
    }
}

#[tonic::async_trait]
impl Backend for FilesBackend {
    async fn authenticate(&self, _: Option<&str>, kernel: &str) -> Result<KernelName, Status> {
        if !mew_crds::common::is_object_name(kernel) {
            return Err(Status::invalid_argument(format!("{kernel:?} is not the name of a kernel")));
        }
        Ok(KernelName::new(&self.options.namespace, kernel))
    }

    fn objects(&self, kind: &str, name: &str) -> Result<Vec<String>, Status> {
        let p = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let list = p.get(kind).ok_or_else(|| Status::not_found(format!("no kind {kind} (yet)")))?;
        let wanted = |n: &str| name.is_empty() || n == name || n.rsplit('/').next() == Some(name);
        Ok(list.iter().filter(|(n, _)| wanted(n)).map(|(_, j)| j.clone()).collect())
    }

    fn serves(&self) -> Result<(), Status> {
        Ok(())
    }

    fn authority(&self) -> Arc<Authority> {
        self.ca.clone()
    }

    fn certificate_lifetime(&self) -> Duration {
        self.options.certificate_lifetime
    }
}
