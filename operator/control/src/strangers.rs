//! What a caller may send before it is known who it is: reports are large, and a stranger's first words need not be.

use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use mew_wire::control_server::{Control, ControlServer};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

/// Bytes of one call; a hello has some hundred, a request for a certificate a thousand.
const MAX_UNKNOWN: usize = 64 << 10;

/// Whether the caller is known by now. An extension of each request.
#[derive(Clone, Default)]
pub struct Known(Arc<AtomicBool>);

impl Known {
    /// It may send whatever agents send.
    pub fn admit(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The service with a bound on what strangers send.
pub struct Bounded<C>(ControlServer<C>);

impl<C> Bounded<C> {
    pub fn new(service: ControlServer<C>) -> Self {
        Bounded(service)
    }
}

impl<C> Clone for Bounded<C> {
    fn clone(&self) -> Self {
        Bounded(self.0.clone())
    }
}

impl<C> NamedService for Bounded<C> {
    const NAME: &'static str = <ControlServer<C> as NamedService>::NAME;
}

impl<C: Control> Service<http::Request<Body>> for Bounded<C> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let known = Known::default();
        let (mut head, body) = request.into_parts();
        head.extensions.insert(known.clone());
        self.0.call(http::Request::from_parts(head, Metered { body, left: MAX_UNKNOWN, known }))
    }
}

struct Metered {
    body: Body,
    left: usize,
    known: Known,
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let me = self.get_mut();
        let frame = ready!(Pin::new(&mut me.body).poll_frame(cx));
        let data = frame.as_ref().and_then(|f| f.as_ref().ok()?.data_ref());
        if let Some(data) = data.filter(|_| !me.known.0.load(Ordering::Acquire)) {
            let Some(left) = me.left.checked_sub(data.len()) else {
                let why = format!("more than {MAX_UNKNOWN} bytes before the caller is known");
                return Poll::Ready(Some(Err(Status::resource_exhausted(why))));
            };
            me.left = left;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
