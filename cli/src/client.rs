//! Connections to a kernel's client API and to a standalone operator.

use anyhow::{Context, Result, anyhow, ensure};
use mew_agent::OperatorAddress;
use mew_model::Value;
use mew_net::api::NOT_RUN;
use mew_sync::shapes::{value_from_wire, value_to_wire};
use mew_wire::control_client::ControlClient;
use mew_wire::kernel_client::KernelClient;
use mew_wire::{ExecuteRequest, ExecuteResponse, ObjectsRequest, RecordsRequest, RecordsResponse, Row};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt::{Display, Formatter};
use std::path::Path;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const MAX_MESSAGE: usize = 64 << 20;
/// A kernel is near; an address that swallows everything would keep people for minutes.
pub const CONNECT: Duration = Duration::from_secs(10);

/// An application's view of a kernel.
#[derive(Clone)]
pub struct Kernel {
    client: KernelClient<Channel>,
    address: String,
}

/// A kernel that does not answer, or not yet: the same request may work later. Whatever else is refused stays refused.
#[derive(Debug)]
pub struct Unready {
    text: String,
    /// Whoever asks again may have it done twice: the answer was lost, or says only that it did not go well to the end.
    pub may_have_run: bool,
}

impl Display for Unready {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Of an option, or of MEW_ADDRESS.
pub fn check_address(address: &str) -> Result<()> {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let good = !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok();
    ensure!(good, "the address {address:?} is not <host>:<port>, such as 127.0.0.1:9000");
    Ok(())
}

impl Kernel {
    pub async fn connect(address: &str) -> Result<Self> {
        check_address(address)?;
        let channel =
            Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(CONNECT).connect().await.with_context(
                || Unready {
                    text: format!("no kernel answers at {address}; is its agent running?"),
                    may_have_run: false,
                },
            )?;
        let client =
            KernelClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        Ok(Kernel { client, address: address.to_owned() })
    }

    fn said(&self, s: &Status) -> anyhow::Error {
        said(&self.address, s)
    }

    pub async fn execute(&self, text: &str, params: &BTreeMap<String, Value>) -> Result<ExecuteResponse> {
        let params = params.iter().map(|(k, v)| (k.clone(), value_to_wire(v))).collect();
        let request = ExecuteRequest { text: text.to_owned(), params, ..ExecuteRequest::default() };
        let r = self.client.clone().execute(request).await;
        r.map(tonic::Response::into_inner).map_err(|s| self.said(&s))
    }

    /// Runs the script for each row, all in one transaction.
    pub async fn execute_rows(&self, text: &str, names: &[String], rows: &[Vec<Value>]) -> Result<ExecuteResponse> {
        let rows = rows.iter().map(|r| Row { values: r.iter().map(value_to_wire).collect() }).collect();
        let (text, row_names) = (text.to_owned(), names.to_vec());
        let request = ExecuteRequest { text, params: Default::default(), row_names, rows };
        let r = self.client.clone().execute(request).await;
        r.map(tonic::Response::into_inner).map_err(|s| self.said(&s))
    }

    /// Rows of a query.
    pub async fn rows(&self, text: &str) -> Result<Vec<Vec<Value>>> {
        let r = self.execute(text, &BTreeMap::new()).await?;
        Ok(r.rows.into_iter().map(|r| r.values.into_iter().map(value_from_wire).collect()).collect())
    }

    pub async fn records(&self, kind: &str, limit: u32) -> Result<RecordsResponse> {
        let r = self.client.clone().records(RecordsRequest { kind: kind.to_owned(), limit }).await;
        r.map(tonic::Response::into_inner).map_err(|s| self.said(&s))
    }
}

/// What the kernel says. What is wrong with the connection, or with another server at that port, has a cause or is about HTTP.
fn said(address: &str, s: &Status) -> anyhow::Error {
    let is_broken = s.source().is_some();
    let text = if is_broken || s.message().starts_with("grpc-status header missing") {
        format!(
            "{address} does not answer as a kernel's port for applications (often 9000), or the connection broke: {}",
            s.message()
        )
    } else {
        s.message().to_owned()
    };
    // One that is not open yet, or that ends, says so by its code.
    if is_broken || s.code() == Code::Unavailable {
        return anyhow::Error::msg(Unready { text, may_have_run: s.metadata().get(NOT_RUN).is_none() });
    }
    anyhow::Error::msg(text)
}

/// Objects of a standalone operator, as JSON.
pub async fn standalone_objects(state: &Path, kind: &str, name: &str) -> Result<Vec<serde_json::Value>> {
    let channel = OperatorAddress::Unix(mew_files::socket(state))
        .connect()
        .await
        .with_context(|| format!("no operator is there: is `mew run --state {}` running?", state.display()))?;
    let r = ControlClient::new(channel).objects(ObjectsRequest { kind: kind.to_owned(), name: name.to_owned() }).await;
    let list = r.map_err(|s| anyhow!("{}", s.message()))?.into_inner().json;
    if kind == "problems" {
        return Ok(list.into_iter().map(serde_json::Value::String).collect());
    }
    list.iter().map(|j| serde_json::from_str(j).context("the operator sent no JSON")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Unready, said};
    use mew_net::api::NOT_RUN;
    use tonic::metadata::{MetadataMap, MetadataValue};
    use tonic::{Code, Status};

    /// Whether it may work later, and if so, whether it may have run.
    fn again(s: &Status) -> Option<bool> {
        said("127.0.0.1:9000", s).downcast_ref::<Unready>().map(|u| u.may_have_run)
    }

    #[test]
    fn only_who_says_that_it_did_not_run_is_believed() {
        let mut standby = MetadataMap::new();
        standby.insert(NOT_RUN, MetadataValue::from_static("true"));
        let standby = Status::with_metadata(Code::Unavailable, "the kernel is not open yet", standby);
        assert_eq!(again(&standby), Some(false));
        assert_eq!(again(&Status::unavailable("the disk is full")), Some(true));
        assert_eq!(again(&Status::from_error("connection reset".into())), Some(true));
        assert_eq!(again(&Status::data_loss("segment 1 is damaged at offset 7")), None);
        assert_eq!(again(&Status::invalid_argument("RETUR")), None);
    }
}
