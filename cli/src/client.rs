//! Connections to a kernel's client API and to a standalone operator.

use anyhow::{Context, Result};
use mew_agent::OperatorAddress;
use mew_model::Value;
use mew_sync::shapes::{value_from_wire, value_to_wire};
use mew_wire::control_client::ControlClient;
use mew_wire::kernel_client::KernelClient;
use mew_wire::{ExecuteRequest, ExecuteResponse, ObjectsRequest, RecordsRequest, RecordsResponse, Row};
use std::collections::BTreeMap;
use std::path::Path;
use tonic::transport::{Channel, Endpoint};

const MAX_MESSAGE: usize = 64 << 20;

/// An application's view of a kernel.
#[derive(Clone)]
pub struct Kernel(KernelClient<Channel>);

impl Kernel {
    pub async fn connect(address: &str) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .connect()
            .await
            .with_context(|| format!("no kernel answers at {address}; is its agent running?"))?;
        Ok(Kernel(
            KernelClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE),
        ))
    }

    pub async fn execute(&self, text: &str, params: &BTreeMap<String, Value>) -> Result<ExecuteResponse> {
        let params = params.iter().map(|(k, v)| (k.clone(), value_to_wire(v))).collect();
        let r =
            self.0.clone().execute(ExecuteRequest { text: text.to_owned(), params, ..ExecuteRequest::default() }).await;
        r.map(tonic::Response::into_inner).map_err(|s| anyhow::anyhow!("{}", s.message()))
    }

    /// Runs the script for each row, all in one transaction.
    pub async fn execute_rows(&self, text: &str, names: &[String], rows: &[Vec<Value>]) -> Result<ExecuteResponse> {
        let rows = rows.iter().map(|r| Row { values: r.iter().map(value_to_wire).collect() }).collect();
        let (text, row_names) = (text.to_owned(), names.to_vec());
        let r = self.0.clone().execute(ExecuteRequest { text, params: Default::default(), row_names, rows }).await;
        r.map(tonic::Response::into_inner).map_err(|s| anyhow::anyhow!("{}", s.message()))
    }

    /// Rows of a query.
    pub async fn rows(&self, text: &str) -> Result<Vec<Vec<Value>>> {
        let r = self.execute(text, &BTreeMap::new()).await?;
        Ok(r.rows.iter().map(|r| r.values.iter().map(value_from_wire).collect()).collect())
    }

    pub async fn records(&self, kind: &str, limit: u32) -> Result<RecordsResponse> {
        let r = self.0.clone().records(RecordsRequest { kind: kind.to_owned(), limit }).await;
        r.map(tonic::Response::into_inner).map_err(|s| anyhow::anyhow!("{}", s.message()))
    }
}

/// Objects of a standalone operator, as JSON.
pub async fn standalone_objects(state: &Path, kind: &str, name: &str) -> Result<Vec<serde_json::Value>> {
    let channel = OperatorAddress::Unix(mew_files::socket(state))
        .connect()
        .await
        .with_context(|| format!("is `mew run --state {}` running?", state.display()))?;
    let r = ControlClient::new(channel).objects(ObjectsRequest { kind: kind.to_owned(), name: name.to_owned() }).await;
    let list = r.map_err(|s| anyhow::anyhow!("{}", s.message()))?.into_inner().json;
    if kind == "problems" {
        return Ok(list.into_iter().map(serde_json::Value::String).collect());
    }
    list.iter().map(|j| serde_json::from_str(j).context("the operator sent no JSON")).collect()
}
