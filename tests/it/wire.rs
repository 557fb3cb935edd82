//! A peer as a careless or hostile client meets it: one bare HTTP/2 connection that never dials again and gives up nothing by itself, so that
//! every answer is the peer's own; and what an error must say.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use cubecast_sdk::proto::v1::peer_service_client::PeerServiceClient;
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use tower::Service;

use crate::support::{
    Plain, create_publisher, create_subscriber, create_topic, publish_as, pull, subscribe,
};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One connection. Dropping its last clone closes it.
#[derive(Clone)]
pub struct Wire(SendRequest<Body>);

impl Wire {
    /// Connects to a peer.
    pub async fn connect(address: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Self::with_window(address, None).await
    }

    /// Connects to a peer, and takes no more bytes of an answer than this as long as nobody reads it.
    pub async fn with_window(
        address: &str,
        bytes: Option<u32>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(host(address)).await?;
        stream.set_nodelay(true)?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        if let Some(bytes) = bytes {
            builder.initial_stream_window_size(bytes);
        }
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        #[expect(clippy::disallowed_methods, reason = "it ends with the last clone")]
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// The generated client on this connection.
    pub fn client(&self) -> PeerServiceClient<Self> {
        PeerServiceClient::with_origin(self.clone(), http::Uri::from_static("http://peer"))
    }

    /// A call whose request is any bytes.
    pub async fn call(&self, path: &'static str, body: impl Into<Bytes>) -> Result<Bytes, Status> {
        let origin = http::Uri::from_static("http://peer");
        let mut grpc = Grpc::with_origin(self.clone(), origin);
        let call = grpc.unary(
            Request::new(body.into()),
            PathAndQuery::from_static(path),
            Raw,
        );
        call.await.map(tonic::Response::into_inner)
    }
}

impl Service<http::Request<Body>> for Wire {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// The errors of some calls, one after the other.
macro_rules! errors {
    ($($call:expr),+ $(,)?) => { vec![$($call.await.map(drop).unwrap_err()),+] };
}
pub(crate) use errors;

/// `127.0.0.1:40001` of `http://127.0.0.1:40001`.
pub fn host(address: &str) -> &str {
    address.strip_prefix("http://").unwrap()
}

/// What an error tells a program: code, reason, metadata of its `ErrorInfo`.
pub type Told = (Code, String, BTreeMap<String, String>);

/// What this error tells.
pub fn told(status: &Status) -> Told {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("an error has an ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "cubecast", "{status:?}");
    assert!(!status.message().is_empty(), "{status:?}");
    (
        status.code(),
        info.reason,
        info.metadata.into_iter().collect(),
    )
}

/// What an error should tell.
pub fn expected(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Told {
    let metadata = metadata.iter();
    let metadata = metadata.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    (code, reason.to_owned(), metadata.collect())
}

/// The field that the `BadRequest` of an error names.
pub fn field(status: &Status) -> String {
    let bad = status.get_details_bad_request();
    let violations = bad
        .unwrap_or_else(|| panic!("the error has a BadRequest: {status:?}"))
        .field_violations;
    assert_eq!(violations.len(), 1, "{status:?}");
    violations[0].field.clone()
}

/// Asserts that a peer does all that it should: an id, a topic, a publish and a pull, all of this name.
pub async fn assert_healthy(client: &mut Plain, name: &str) {
    create_publisher(client, name).await;
    create_subscriber(client, name).await;
    create_topic(client, name).await;
    subscribe(client, name, name).await;
    publish_as(client, name, (name, 1, 0), "still here")
        .await
        .unwrap();
    assert_eq!(pull(client, name, name).await, ["still here"]);
}
