//! Who an agent is: its token is reviewed for the audience of exactly one kernel, and the namespace comes from the review.

use crate::health::Health;
use crate::{CALL, OperatorOptions};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use mew_control::{Authorities, Backend};
use mew_inject::audience;
use mew_plan::KernelName;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tonic::Status;

/// Tokens that are reviewed at once; the others wait. When all agents of a large cluster come to a new leader together, the API
/// server is to have time for others; at a few milliseconds each it is thousands in a second all the same.
const REVIEWS: usize = 32;

pub struct KubeBackend {
    client: Client,
    options: OperatorOptions,
    authorities: watch::Receiver<Arc<Authorities>>,
    health: Health,
    reviews: Semaphore,
}

impl KubeBackend {
    pub fn new(
        client: Client,
        options: OperatorOptions,
        authorities: watch::Receiver<Arc<Authorities>>,
        health: Health,
    ) -> Self {
        KubeBackend { client, options, authorities, health, reviews: Semaphore::new(REVIEWS) }
    }
}

#[tonic::async_trait]
impl Backend for KubeBackend {
    async fn authenticate(&self, token: Option<&str>, kernel: &str) -> Result<KernelName, Status> {
        let token = token.ok_or_else(|| Status::unauthenticated("a bearer token is needed"))?;
        if !mew_crds::common::is_object_name(kernel) {
            return Err(Status::invalid_argument(format!("{kernel:?} is not the name of a kernel")));
        }
        let wanted = audience(&self.options.trust_domain, kernel);
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![wanted.clone()]) },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let turn = self.reviews.acquire().await.map_err(|_| Status::unavailable("tokens are not reviewed any more"))?;
        let r = tokio::time::timeout(CALL, reviews.create(&PostParams::default(), &review))
            .await
            .map_err(|_| Status::unavailable("the token could not be reviewed in time"))?
            .map_err(|e| Status::unavailable(format!("the token could not be reviewed: {e}")))?;
        drop(turn);
        let s = r.status.unwrap_or_default();
        if s.authenticated != Some(true) || !s.audiences.unwrap_or_default().contains(&wanted) {
            return Err(Status::unauthenticated(format!("the token is not valid for {wanted}")));
        }
        let user = s.user.and_then(|u| u.username).unwrap_or_default();
        let mut parts = user.strip_prefix("system:serviceaccount:").unwrap_or("").split(':');
        match (parts.next(), parts.next()) {
            (Some(ns), Some(_)) if !ns.is_empty() => Ok(KernelName::new(ns, kernel)),
            _ => Err(Status::permission_denied("the token is not a service account's")),
        }
    }

    fn objects(&self, _: &str, _: &str) -> Result<Vec<String>, Status> {
        Err(Status::unimplemented("ask the API server for objects"))
    }

    fn serves(&self) -> Result<(), Status> {
        match self.health.leader() {
            (true, _) => Ok(()),
            (false, None) => Err(Status::unavailable("no leader yet")),
            (false, Some(l)) => Err(Status::unavailable(format!("not the leader; the leader is {l}"))),
        }
    }

    fn authorities(&self) -> watch::Receiver<Arc<Authorities>> {
        self.authorities.clone()
    }

    fn certificate_lifetime(&self) -> Duration {
        self.options.certificate_lifetime
    }
}
