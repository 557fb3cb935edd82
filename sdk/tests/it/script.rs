//! A peer whose streams are played by the test: it says what it likes and sees what the SDK says, so that nothing is left to chance.
//!
//! Begin with [`Stage::start`], then [`Stage::next`].

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cubecast_sdk::proto::v1;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::raw::Raw;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A peer that has no log: its unary calls are refused but for that who it is.
pub struct Stage {
    pub address: String,
    opened: mpsc::Receiver<Scene>,
    task: tokio::task::JoinHandle<()>,
}

/// A stream that the SDK has opened. Dropped, it breaks.
pub struct Scene {
    said: Streaming<Bytes>,
    answers: mpsc::Sender<Result<Vec<u8>, Status>>,
}

impl Stage {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (sender, opened) = mpsc::channel(64);
        let task = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(Player { opened: sender })
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            opened,
            task,
        }
    }

    /// The next stream that is opened.
    pub async fn next(&mut self) -> Scene {
        let opened = tokio::time::timeout(PATIENCE, self.opened.recv()).await;
        opened.unwrap().unwrap()
    }

    /// Streams that were opened and not looked at.
    pub fn waiting(&self) -> usize {
        self.opened.len()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scene {
    /// What the SDK says next. `None`: nothing more.
    pub async fn hear<M: Message + Default>(&mut self) -> Option<M> {
        let said = tokio::time::timeout(PATIENCE, self.said.message()).await;
        let said = said.unwrap().ok()??;
        Some(M::decode(said).unwrap())
    }

    pub async fn say(&self, answer: &impl Message) {
        self.say_raw(answer.encode_to_vec()).await;
    }

    pub async fn say_raw(&self, answer: Vec<u8>) {
        self.answers.send(Ok(answer)).await.unwrap();
    }
}

#[derive(Clone)]
struct Player {
    opened: mpsc::Sender<Scene>,
}

impl Player {
    async fn play(
        self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<ReceiverStream<Result<Vec<u8>, Status>>>, Status> {
        let (answers, outgoing) = mpsc::channel(64);
        let said = request.into_inner();
        let scene = Scene { said, answers };
        let opened = self.opened.send(scene).await;
        opened.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

impl tonic::server::NamedService for Player {
    const NAME: &'static str = "cubecast.v1.PeerService";
}

impl tower::Service<http::Request<tonic::body::Body>> for Player {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let player = self.clone();
        let is_stream = request.uri().path().contains("Stream");
        Box::pin(async move {
            if !is_stream {
                let who =
                    tower::service_fn(|_: Request<Bytes>| async { Ok(Response::new(status())) });
                return Ok(tonic::server::Grpc::new(Raw).unary(who, request).await);
            }
            let play = tower::service_fn(move |request| player.clone().play(request));
            Ok(tonic::server::Grpc::new(Raw).streaming(play, request).await)
        })
    }
}

/// Who this is, and what it takes.
fn status() -> Vec<u8> {
    let limits = v1::Limits {
        message_bytes_max: 2_000,
        ..Default::default()
    };
    v1::GetNodeStatusResponse {
        vertex: "000".to_owned(),
        limits: Some(limits),
        ..Default::default()
    }
    .encode_to_vec()
}
