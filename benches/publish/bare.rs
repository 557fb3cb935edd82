//! The yardstick: a gRPC server that answers a publish without doing anything, in a process of its own, because a peer is one, too.
//!
//! The same library, messages and client as cubecast's; no check, no disk, no other peer. Begin with [`BareServer::start`].

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::Context;
use cubecast_sdk::proto::v1::peer_service_client::PeerServiceClient;
use cubecast_sdk::proto::v1::{PublishRequest, PublishResponse};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic_prost::ProstCodec;
use tower::Service;

/// The argument with which this program is the server.
pub const SERVE: &str = "serve-bare";

const START_MAX: Duration = Duration::from_secs(10);

/// A running server. Killed when dropped.
pub struct BareServer {
    process: Child,
    client: PeerServiceClient<Channel>,
}

impl BareServer {
    /// Starts this program again, as the server, and connects to it.
    pub async fn start() -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(SERVE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = process.stdout.take().context("the output is a pipe")?;
        let mut lines = BufReader::new(output).lines();
        let line = tokio::time::timeout(START_MAX, lines.next_line()).await??;
        let port = line.context("the bare server did not start")?;
        let channel = Channel::from_shared(format!("http://127.0.0.1:{port}"))?;
        let client = PeerServiceClient::new(channel.connect().await?);
        Ok(Self { process, client })
    }

    /// A client; all share one connection.
    pub fn client(&self) -> PeerServiceClient<Channel> {
        self.client.clone()
    }

    /// The server's process.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.process.id().context("the bare server has ended")
    }
}

/// Is the server until the other process closes this one's input, or is gone.
pub fn serve() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder()
            .add_service(Bare)
            .serve_with_incoming(incoming);
        let mut input = tokio::io::stdin();
        tokio::select! {
            ended = server => Ok(ended?),
            _ = input.read_u8() => Ok(()),
        }
    })
}

/// Answers every call as a publish.
#[derive(Clone)]
struct Bare;

impl NamedService for Bare {
    const NAME: &'static str = "cubecast.v1.PeerService";
}

impl Service<http::Request<Body>> for Bare {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<PublishResponse, PublishRequest>::default();
            Ok(Grpc::new(codec).unary(Answer, request).await)
        })
    }
}

struct Answer;

impl UnaryService<PublishRequest> for Answer {
    type Response = PublishResponse;
    type Future = Ready<Result<tonic::Response<PublishResponse>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<PublishRequest>) -> Self::Future {
        let message_count = u32::try_from(request.get_ref().messages.len()).unwrap_or(u32::MAX);
        ready(Ok(tonic::Response::new(PublishResponse {
            message_count,
            ..PublishResponse::default()
        })))
    }
}
