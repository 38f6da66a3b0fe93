//! A call of a kernel whose request is kept: it is sent many times, and the generated client would want a copy for each, which
//! takes longer than to encode it.

use mew_wire::{ExecuteRequest, ExecuteResponse};
use prost::Message;
use std::sync::Arc;
use tonic::client::Grpc;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstDecoder;

const EXECUTE: &str = "/mew.v1.Kernel/Execute";

pub async fn execute(kernel: &mut Grpc<Channel>, r: Arc<ExecuteRequest>) -> Result<ExecuteResponse, Status> {
    kernel.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let answer = kernel.unary(Request::new(r), PathAndQuery::from_static(EXECUTE), Kept).await?;
    Ok(answer.into_inner())
}

struct Kept;

impl Codec for Kept {
    type Encode = Arc<ExecuteRequest>;
    type Decode = ExecuteResponse;
    type Encoder = Kept;
    type Decoder = ProstDecoder<ExecuteResponse>;

    fn encoder(&mut self) -> Kept {
        Kept
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

impl Encoder for Kept {
    type Item = Arc<ExecuteRequest>;
    type Error = Status;

    fn encode(&mut self, r: Self::Item, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        r.encode(buf).map_err(|e| Status::internal(e.to_string()))
    }
}
