//! The API for applications on loopback: gRPC with reflection and health, and the same as HTTP/JSON on the same port.

use crate::gate::Gate;
use crate::hub::Hub;
use crate::json::{entity_json, from_json, to_json};
use axum::extract::{Path, Query, Request as HttpRequest, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use mew_kernel::{Kernel, KernelError, Output, Params, Table};
use mew_lang::render;
use mew_model::value::format_timestamp;
use mew_store::{LogError, StoreError};
use mew_sync::records;
use mew_sync::shapes::{value_from_wire, value_to_wire};
use mew_wire as wire;
use prost::Message;
use serde_json::{Value as JsonValue, json};
use std::future::pending;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status};
use wire::kernel_server::{Kernel as KernelService, KernelServer};

/// A script or a result in one message.
const MAX_MESSAGE: usize = 64 << 20;
/// Records of one answer.
const MAX_RECORDS: usize = 1000;
/// Beside an answer to say that nothing of the statement ran: whoever gets it may send a write again. Of others that look alike,
/// such as those of a disk that refuses, or of a script of which only the end failed, that is not known.
pub const NOT_RUN: &str = "mew-not-run";
/// What a write is told while the agent ends.
const STOPPING: &str = "this agent is stopping and takes no more writes; try again when its successor is up";

#[derive(Clone)]
pub struct Api {
    pub kernel: Arc<Kernel>,
    pub hub: Arc<Hub>,
    /// Closed when the agent ends.
    pub gate: Gate,
    /// Names besides loopback by which applications may call it.
    pub hosts: Arc<[String]>,
}

/// Serves until `stop`.
pub async fn serve_api(api: Api, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<KernelServer<Api>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::DESCRIPTOR)
        .build_v1()
        .map_err(std::io::Error::other)?;
    let gate = api.gate.clone();
    let service =
        KernelServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    let grpc =
        tonic::service::Routes::new(service).add_service(health_service).add_service(reflection).into_axum_router();
    let http = Router::new()
        .route("/v1/execute", post(http_execute))
        .route("/v1/records/{kind}", get(http_records))
        .route("/v1/status", get(http_status))
        .merge(crate::backup::router(api.clone()))
        .layer(middleware::from_fn_with_state(api.hosts.clone(), only_local))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_MESSAGE))
        .with_state(api);
    // An answer must not wait until the caller has acknowledged what was sent before it: that takes 40 ms.
    let listener = listener.tap_io(|tcp| drop(tcp.set_nodelay(true)));
    let server = axum::serve(listener, http.merge(grpc)).with_graceful_shutdown(stop.cancelled_owned());
    let closing = async {
        gate.closed().await;
        health.set_not_serving::<KernelServer<Api>>().await;
        pending::<std::io::Result<()>>().await
    };
    tokio::select! {
        served = server.into_future() => served,
        never = closing => never,
    }
}

/// A browser on this machine reaches loopback too. A page of another site can neither name this host as `localhost`
/// (rebinding) nor send JSON without being asked for permission first, which nobody grants.
async fn only_local(
    State(hosts): State<Arc<[String]>>,
    headers: HeaderMap,
    req: HttpRequest,
    next: Next,
) -> HttpResponse {
    if let Some(refused) = foreign_host(&headers, &hosts) {
        return refused;
    }
    let json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|h| h.to_str().ok())
        .is_some_and(|t| t.starts_with("application/json"));
    if req.method() == Method::POST && !json {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be application/json");
    }
    next.run(req).await
}

/// The answer to a request that names this host as something else than loopback or one of these names.
pub(crate) fn foreign_host(headers: &HeaderMap, hosts: &[String]) -> Option<HttpResponse> {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("");
    let name =
        host.rsplit_once(':').map_or(host, |(h, port)| if port.bytes().all(|b| b.is_ascii_digit()) { h } else { host });
    let ours = matches!(name, "localhost" | "127.0.0.1" | "[::1]") || hosts.iter().any(|h| h == name);
    let why = "the Host header must name loopback (localhost, 127.0.0.1 or [::1]) or a name that --host gives";
    (!ours).then(|| refuse(StatusCode::FORBIDDEN, why))
}

pub(crate) fn refuse(code: StatusCode, message: &str) -> HttpResponse {
    (code, Json(json!({"error": message}))).into_response()
}

// ---------------------------------------------------------------- what both speak

/// Values of a script's parameters: once, or row by row.
enum Arguments {
    Once(Params),
    Rows(Table),
}

/// Why a script did not run, or not to its end.
enum Failure {
    Stopping,
    Kernel(KernelError),
}

impl Failure {
    fn explain(&self, text: &str) -> String {
        match self {
            Failure::Stopping => STOPPING.to_owned(),
            Failure::Kernel(e) => explain(e, text),
        }
    }
}

async fn execute(api: &Api, text: String, arguments: Arguments) -> Result<Output, Failure> {
    let api = api.clone();
    tokio::task::spawn_blocking(move || {
        let script = api.kernel.script(&text).map_err(Failure::Kernel)?;
        // Nobody waits for a query when the agent ends: it is answered if there is time, and cut off if not.
        let inside = if script.writes() { Some(api.gate.enter().ok_or(Failure::Stopping)?) } else { None };
        let done = match arguments {
            Arguments::Once(params) => api.kernel.run(api.hub.wall_ms(), script, &params),
            Arguments::Rows(table) => api.kernel.run_table(api.hub.wall_ms(), script, table),
        };
        drop(inside);
        done.map_err(Failure::Kernel)
    })
    .await
    .unwrap_or_else(|e| {
        Err(Failure::Kernel(KernelError::Limit(format!("the statement failed inside the kernel: {e}"))))
    })
}

/// For people: with the source and a caret where the text is wrong.
fn explain(e: &KernelError, text: &str) -> String {
    match e {
        KernelError::Text(d) => render("statement", text, d, false),
        e => e.to_string(),
    }
}

fn list_records(api: &Api, kind: &str, limit: usize) -> Result<(Vec<JsonValue>, u64), String> {
    let prefix = match kind {
        "held" => records::HELD,
        "conflicts" => records::CONFLICT,
        other => return Err(format!("unknown kind of record {other:?}; known: held, conflicts")),
    };
    let view = api.kernel.view();
    let o = view.ontology().clone();
    let total = view.count_facts(prefix).map_err(|e| e.to_string())? as u64;
    let mut keys = view.fact_keys(prefix).map_err(|e| e.to_string())?;
    if kind == "conflicts" {
        keys.reverse(); // newest first
    }
    let mut out = Vec::new();
    for k in keys.into_iter().take(limit) {
        let Some(b) = view.fact(&k).map_err(|e| e.to_string())? else { continue };
        out.push(if kind == "held" {
            let (flow, sync_id) = records::parse_held_key(&k).unwrap_or_default();
            let h = wire::Held::decode(b).unwrap_or_default();
            json!({"flow": flow, "syncId": sync_id, "reason": h.reason, "message": h.message, "waitsFor": h.blocker,
                   "since": format_timestamp(h.since_ms as i64), "entity": entity_json(&o, &h.entity)})
        } else {
            let c = wire::Conflict::decode(b).unwrap_or_default();
            json!({"syncId": c.sync_id, "remote": c.remote, "type": c.r#type, "resolution": c.resolution, "by": c.by,
                   "at": format_timestamp(c.at_ms as i64), "local": entity_json(&o, &c.local), "incoming": entity_json(&o, &c.incoming)})
        });
    }
    Ok((out, total))
}

fn status(api: &Api) -> JsonValue {
    let (remotes, syncs) = api.hub.report();
    let (bytes, entities) = api.kernel.usage();
    json!({"kernelId": api.kernel.identity().kernel_id, "incarnation": api.kernel.incarnation(), "head": api.kernel.head(),
           "logBytes": bytes, "entities": entities, "remotes": remotes, "syncs": syncs})
}

// ---------------------------------------------------------------- gRPC

#[tonic::async_trait]
impl KernelService for Api {
    async fn execute(&self, req: Request<wire::ExecuteRequest>) -> Result<Response<wire::ExecuteResponse>, Status> {
        let r = req.into_inner();
        let arguments = match r.rows.is_empty() && r.row_names.is_empty() {
            true => Arguments::Once(r.params.into_iter().map(|(k, v)| (k, value_from_wire(v))).collect()),
            false if !r.params.is_empty() => return Err(Status::invalid_argument("either params or rows, not both")),
            false => Arguments::Rows(Table {
                names: r.row_names,
                rows: r.rows.into_iter().map(|r| r.values.into_iter().map(value_from_wire).collect()).collect(),
            }),
        };
        let out = execute(self, r.text.clone(), arguments).await.map_err(|e| to_status(&e, &r.text))?;
        let s = out.summary;
        Ok(Response::new(wire::ExecuteResponse {
            columns: out.columns,
            rows: out.rows.iter().map(|r| wire::Row { values: r.iter().map(value_to_wire).collect() }).collect(),
            summary: Some(wire::Summary {
                spawned: s.spawned,
                set: s.set,
                killed: s.killed,
                linked: s.linked,
                unlinked: s.unlinked,
            }),
            seq: out.seq,
        }))
    }

    async fn records(&self, req: Request<wire::RecordsRequest>) -> Result<Response<wire::RecordsResponse>, Status> {
        let r = req.into_inner();
        let (json, total) =
            list_records(self, &r.kind, (r.limit as usize).min(MAX_RECORDS)).map_err(Status::invalid_argument)?;
        Ok(Response::new(wire::RecordsResponse { json: json.iter().map(JsonValue::to_string).collect(), total }))
    }

    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusResponse>, Status> {
        Ok(Response::new(wire::StatusResponse { json: status(self).to_string() }))
    }
}

fn to_status(e: &Failure, text: &str) -> Status {
    let message = e.explain(text);
    let Failure::Kernel(e) = e else { return not_run(message) };
    match e.cause() {
        KernelError::Text(_) | KernelError::Eval(_) | KernelError::Transaction(_) => Status::invalid_argument(message),
        KernelError::Violation(_) => Status::failed_precondition(message),
        KernelError::NotFound(_) => Status::not_found(message),
        KernelError::Limit(_) => Status::resource_exhausted(message),
        KernelError::Store(e) if is_damage(e) => Status::data_loss(message),
        KernelError::Store(_) | KernelError::Row(..) => Status::unavailable(message),
    }
}

/// It may work later, and did nothing now.
pub(crate) fn not_run(message: impl Into<String>) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(NOT_RUN, MetadataValue::from_static("true"));
    Status::with_metadata(Code::Unavailable, message, metadata)
}

/// No waiting mends it.
fn is_damage(e: &StoreError) -> bool {
    let StoreError::Log(e) = e else { return matches!(e, StoreError::Inconsistent(_)) };
    !matches!(e, LogError::Io(_))
}

// ---------------------------------------------------------------- HTTP/JSON

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ExecuteBody {
    text: String,
    #[serde(default)]
    params: serde_json::Map<String, JsonValue>,
    /// Instead of params: the script runs for each row, all rows in one transaction.
    #[serde(default, rename = "rowNames")]
    row_names: Vec<String>,
    #[serde(default)]
    rows: Vec<Vec<JsonValue>>,
}

impl ExecuteBody {
    fn arguments(&self) -> Result<Arguments, String> {
        if self.rows.is_empty() && self.row_names.is_empty() {
            let value = |(k, v): (&String, &JsonValue)| {
                Ok((k.clone(), from_json(v).map_err(|e| format!("parameter {k}: {e}"))?))
            };
            return Ok(Arguments::Once(self.params.iter().map(value).collect::<Result<_, String>>()?));
        }
        if !self.params.is_empty() {
            return Err("either params or rows, not both".to_owned());
        }
        let value = |i: usize, v: &JsonValue| from_json(v).map_err(|e| format!("row {i}: {e}"));
        let row = |(i, r): (usize, &Vec<JsonValue>)| r.iter().map(|v| value(i, v)).collect::<Result<_, String>>();
        let rows = self.rows.iter().enumerate().map(row).collect::<Result<_, String>>()?;
        Ok(Arguments::Rows(Table { names: self.row_names.clone(), rows }))
    }
}

async fn http_execute(
    State(api): State<Api>,
    body: Result<Json<ExecuteBody>, axum::extract::rejection::JsonRejection>,
) -> HttpResponse {
    let Json(body) = match body {
        Ok(b) => b,
        Err(e) => return refuse(StatusCode::BAD_REQUEST, &e.body_text()),
    };
    let arguments = match body.arguments() {
        Ok(a) => a,
        Err(e) => return refuse(StatusCode::BAD_REQUEST, &e),
    };
    match execute(&api, body.text.clone(), arguments).await {
        Ok(out) => {
            let rows: Vec<Vec<JsonValue>> = out.rows.iter().map(|r| r.iter().map(to_json).collect()).collect();
            let s = out.summary;
            let changed = json!({"spawned": s.spawned, "set": s.set, "killed": s.killed, "linked": s.linked, "unlinked": s.unlinked});
            Json(json!({"columns": out.columns, "rows": rows, "summary": changed, "seq": out.seq})).into_response()
        }
        Err(e) => {
            let code = match &e {
                Failure::Stopping => StatusCode::SERVICE_UNAVAILABLE,
                Failure::Kernel(e) => match e.cause() {
                    KernelError::NotFound(_) => StatusCode::NOT_FOUND,
                    KernelError::Violation(_) => StatusCode::CONFLICT,
                    KernelError::Store(e) if is_damage(e) => StatusCode::INTERNAL_SERVER_ERROR,
                    KernelError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::BAD_REQUEST,
                },
            };
            refuse(code, &e.explain(&body.text))
        }
    }
}

#[derive(serde::Deserialize)]
struct Limit {
    limit: Option<usize>,
}

async fn http_records(State(api): State<Api>, Path(kind): Path<String>, Query(q): Query<Limit>) -> HttpResponse {
    match list_records(&api, &kind, q.limit.unwrap_or(100).min(MAX_RECORDS)) {
        Ok((records, total)) => Json(json!({"records": records, "total": total})).into_response(),
        Err(e) => refuse(StatusCode::NOT_FOUND, &e),
    }
}

async fn http_status(State(api): State<Api>) -> HttpResponse {
    Json(status(&api)).into_response()
}

#[cfg(test)]
mod tests {
    use super::{Failure, NOT_RUN, to_status};
    use mew_kernel::KernelError;
    use mew_store::{LogError, StoreError};
    use tonic::Code;

    /// Whoever is refused has to know whether asking again helps, and whether that may do it twice.
    #[test]
    fn what_is_damaged_is_not_to_be_asked_again() {
        let damaged = LogError::Damaged { segment: 1, offset: 7, why: "record checksum".into() };
        let said = |e: StoreError| to_status(&Failure::Kernel(KernelError::from(e)), "MATCH t: Task RETURN t.n");
        assert_eq!(said(damaged.into()).code(), Code::DataLoss);
        for e in [StoreError::Full, LogError::Io(std::io::Error::other("the bus")).into()] {
            let s = said(e);
            assert_eq!((s.code(), s.metadata().get(NOT_RUN).is_some()), (Code::Unavailable, false), "{s}");
        }
        let s = to_status(&Failure::Stopping, "");
        assert_eq!((s.code(), s.metadata().get(NOT_RUN).is_some()), (Code::Unavailable, true), "{s}");
    }
}
