//! What has become of a CustomResourceDefinition: when it goes, the API server deletes all its objects one by one, and
//! nobody has withdrawn what they say.

use crate::CALL;
use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client};
use mew_crds::GROUP;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// Each definition is looked at this often at most, however many objects go and however many namespaces are watched. A
/// withdrawal must reach agents within five seconds, so it is not longer.
const EVERY: Duration = Duration::from_millis(500);
/// Between tries while a definition cannot be read.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definition {
    Here {
        uid: String,
        created: Option<Timestamp>,
    },
    /// Or on its way out.
    Gone,
}

/// One definition, for all who ask.
pub struct Definitions {
    api: Api<CustomResourceDefinition>,
    name: String,
    /// The last answer, and when it was asked for.
    last: Mutex<Option<(Instant, Definition)>>,
}

impl Definitions {
    pub fn new(client: &Client, plural: &str) -> Self {
        Definitions { api: Api::all(client.clone()), name: format!("{plural}.{GROUP}"), last: Mutex::new(None) }
    }

    /// What it is after this moment: an older answer says nothing of a deletion that came since. Not knowing decides nothing,
    /// so it is asked until there is an answer.
    pub async fn ask(&self, after: Instant) -> Definition {
        let mut last = self.last.lock().await;
        if let Some((began, known)) = &*last {
            if *began >= after {
                return known.clone();
            }
            sleep(EVERY.saturating_sub(began.elapsed())).await;
        }
        let mut pause = RETRY_MIN;
        loop {
            let began = Instant::now();
            match self.read().await {
                Ok(d) => {
                    *last = Some((began, d.clone()));
                    return d;
                }
                Err(e) => {
                    tracing::warn!(name = %self.name, error = %e, "the CustomResourceDefinition cannot be read");
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    async fn read(&self) -> Result<Definition> {
        let found = timeout(CALL, self.api.get_metadata_opt(&self.name)).await??;
        let here = found.filter(|c| c.metadata.deletion_timestamp.is_none());
        Ok(here.map_or(Definition::Gone, |c| Definition::Here {
            uid: c.metadata.uid.unwrap_or_default(),
            created: c.metadata.creation_timestamp.map(|t| t.0),
        }))
    }
}
