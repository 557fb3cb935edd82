//! Tells when an answer has been given to its connection.
//!
//! A handler that must not do what it was told before its answer is on its way puts a [`Delivery`] into the answer; here it is kept until the
//! answer's last part has been taken. What was taken is sent unless the connection breaks first. Begin with [`watch`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::body::Body;

/// Goes with an answer; the last clone that is dropped tells.
#[derive(Debug, Clone)]
pub struct Delivery {
    _end: Arc<DropGuard>,
}

impl Delivery {
    /// With what is cancelled when the answer has been taken, or will never be.
    pub fn new() -> (Self, CancellationToken) {
        let end = CancellationToken::new();
        let delivery = Self {
            _end: Arc::new(end.clone().drop_guard()),
        };
        (delivery, end)
    }
}

/// The answer, which keeps its [`Delivery`], if it has one, as long as its body.
pub(super) fn watch(mut response: Response<Body>) -> Response<Body> {
    match response.extensions_mut().remove::<Delivery>() {
        Some(delivery) => response.map(|inner| {
            Body::new(Watched {
                inner,
                _delivery: delivery,
            })
        }),
        None => response,
    }
}

struct Watched {
    inner: Body,
    _delivery: Delivery,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
