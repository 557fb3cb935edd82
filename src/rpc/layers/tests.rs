use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cubecast_sdk::proto::v1::ErrorReason;
use http::Response;
use http_body::{Body as _, Frame};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, ServiceExt, service_fn};

use super::upload::Upload;
use super::{Delivery, Edge, Place};
use crate::rpc::context::{Arrival, TRACE_PARENT};
use crate::rpc::status::{Fault, reason};
use crate::types::{Limits, PeerId};

/// A request as a method sees it.
type Request = http::Request<Upload<Body>>;

fn request(path: &str) -> http::Request<Body> {
    http::Request::builder()
        .uri(path)
        .body(Body::empty())
        .unwrap()
}

fn edge(calls_max: u32) -> Edge {
    draining_with(calls_max, CancellationToken::new())
}

fn draining_with(calls_max: u32, drain: CancellationToken) -> Edge {
    let limits = Limits {
        calls_max,
        ..Limits::default()
    };
    Edge::new(PeerId(4), &limits, 1, drain)
}

/// A method that is reached when its request is there, as those of tonic are.
async fn read_whole(request: Request) -> Result<Response<Body>, Infallible> {
    let mut body = request.into_body();
    while let Some(Ok(_)) =
        std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {}
    Ok(Response::new(Body::empty()))
}

/// A request whose body begins and never ends.
fn endless(path: &str) -> http::Request<Body> {
    let body = Body::new(Endless { is_begun: false });
    http::Request::builder().uri(path).body(body).unwrap()
}

struct Endless {
    is_begun: bool,
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_begun {
            return Poll::Pending;
        }
        self.is_begun = true;
        // The head of a message of nine bytes, which do not come.
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 9])))))
    }
}

fn status(response: &Response<Body>) -> Status {
    Status::from_header_map(response.headers()).unwrap()
}

/// That of the limits of these tests.
const UPLOAD_TIME_MAX: Duration = Duration::from_secs(20);

#[tokio::test(start_paused = true)]
async fn request_that_never_ends_gives_its_place_back() {
    let edge = edge(1);
    let path = "/cubecast.v1.PeerService/Publish";
    for (timeout, wait) in [
        (None, UPLOAD_TIME_MAX),
        (Some("250m"), Duration::from_millis(250)),
        (Some("9999H"), UPLOAD_TIME_MAX),
    ] {
        let mut request = endless(path);
        if let Some(timeout) = timeout {
            let headers = request.headers_mut();
            headers.insert("grpc-timeout", timeout.parse().unwrap());
        }
        let begun = Instant::now();
        let response = edge
            .layer(service_fn(read_whole))
            .oneshot(request)
            .await
            .unwrap();
        let status = status(&response);
        assert_eq!(reason(&status), Some(ErrorReason::DeadlineExceeded));
        assert_eq!((begun.elapsed(), edge.calls()), (wait, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn call_that_works_or_reads_a_stream_is_not_cut() {
    let edge = edge(1);
    let works = service_fn(|request: Request| async move {
        read_whole(request).await?;
        tokio::time::sleep(10 * UPLOAD_TIME_MAX).await;
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let call = request("/cubecast.v1.PeerService/Pull");
    let answer = edge.layer(works).oneshot(call).await.unwrap();
    assert!(!answer.headers().contains_key("grpc-status"));
    let reads = service_fn(|request: Request| async move {
        let _reading = request;
        tokio::time::sleep(10 * UPLOAD_TIME_MAX).await;
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let call = endless("/cubecast.v1.PeerService/StreamPull");
    let answer = edge.layer(reads).oneshot(call).await.unwrap();
    assert!(!answer.headers().contains_key("grpc-status"));
}

#[tokio::test]
async fn peer_that_stops_sends_new_calls_elsewhere() {
    let drain = CancellationToken::new();
    let edge = draining_with(4, drain.clone());
    let never =
        service_fn(|_: Request| std::future::pending::<Result<Response<Body>, Infallible>>());
    let path = "/cubecast.v1.PeerService/Publish";
    let mut held = edge.layer(never).oneshot(request(path));
    assert!(futures::poll!(&mut held).is_pending());
    drain.cancel();
    let mut drained = Box::pin(edge.drained());
    assert!(futures::poll!(&mut drained).is_pending());

    let call = edge.layer(service_fn(read_whole)).oneshot(request(path));
    let status = status(&call.await.unwrap());
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::Unavailable, Some(ErrorReason::ShuttingDown))
    );
    drop(held);
    drained.await;
}

#[tokio::test]
async fn method_that_waits_for_its_caller_gives_its_place_up() {
    let edge = edge(1);
    let waits = service_fn(|request: Request| async move {
        let place = request.extensions().get::<Place>().unwrap();
        place.leave();
        tokio::task::yield_now().await;
        let response = match place.enter() {
            Ok(()) => Response::new(Body::empty()),
            Err(status) => status.into_http(),
        };
        Ok::<_, Infallible>(response)
    });
    let path = "/cubecast.v1.PeerService/StreamPull";
    let mut first = edge.layer(waits).oneshot(request(path));
    assert!(futures::poll!(&mut first).is_pending());
    assert_eq!(edge.calls(), 0);
    let answer = first.await.unwrap();
    assert!(!answer.headers().contains_key("grpc-status"));
    assert_eq!(edge.calls(), 0);

    let mut second = edge.layer(waits).oneshot(request(path));
    assert!(futures::poll!(&mut second).is_pending());
    let never =
        service_fn(|_: Request| std::future::pending::<Result<Response<Body>, Infallible>>());
    let mut held = edge.layer(never).oneshot(request(path));
    assert!(futures::poll!(&mut held).is_pending());
    let refused = status(&second.await.unwrap());
    assert_eq!(reason(&refused), Some(ErrorReason::Overloaded));
}

/// What a caller is told when the method gives this status.
async fn told(status: Status) -> Status {
    let service = service_fn(move |_: Request| {
        let response: Response<Body> = status.clone().into_http();
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let response = edge(1)
        .layer(service)
        .oneshot(request("/cubecast.v1.PeerService/Publish"))
        .await
        .unwrap();
    Status::from_header_map(response.headers()).unwrap()
}

#[tokio::test]
async fn errors_of_the_transport_get_a_reason_and_ours_keep_theirs() {
    let large = told(Status::out_of_range("decoded message length too large")).await;
    assert_eq!(
        (large.code(), reason(&large)),
        (Code::ResourceExhausted, Some(ErrorReason::RequestTooLarge))
    );
    let malformed = told(Status::internal("failed to decode Protobuf message")).await;
    assert_eq!(
        (malformed.code(), reason(&malformed)),
        (Code::InvalidArgument, Some(ErrorReason::RequestMalformed))
    );
    let offset = told(Fault::new(ErrorReason::OffsetOutOfRange, "x").into_status()).await;
    assert_eq!(
        (offset.code(), reason(&offset)),
        (Code::OutOfRange, Some(ErrorReason::OffsetOutOfRange))
    );
    let later = told(Status::unimplemented("")).await;
    assert_eq!(
        (later.code(), reason(&later)),
        (Code::Unimplemented, Some(ErrorReason::NotImplemented))
    );
}

#[tokio::test]
async fn deadline_already_past_does_no_work() {
    let service = service_fn(|_: Request| async { panic!("the method is not reached") });
    let service = service.map_response(|(): ()| Response::new(Body::empty()));
    let mut late = request("/cubecast.v1.PeerService/Publish");
    late.headers_mut()
        .insert("grpc-timeout", "0m".parse().unwrap());
    let response = edge(1).layer(service).oneshot(late).await.unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(reason(&status), Some(ErrorReason::DeadlineExceeded));
}

#[tokio::test]
async fn method_sees_arrival_and_trace() {
    let seen = Arc::new(Mutex::new(None));
    let sees = Arc::clone(&seen);
    let service = service_fn(move |request: Request| {
        let arrival = request.extensions().get::<Arrival>().copied().unwrap();
        *sees.lock().unwrap() = Some((
            arrival.timeout,
            request.headers().contains_key(TRACE_PARENT),
        ));
        std::future::ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    });
    let mut call = request("/cubecast.v1.PeerService/Publish");
    call.headers_mut()
        .insert("grpc-timeout", "250m".parse().unwrap());
    edge(1).layer(service).oneshot(call).await.unwrap();
    assert_eq!(
        *seen.lock().unwrap(),
        Some((Some(Duration::from_millis(250)), true))
    );
}

#[tokio::test]
async fn call_beyond_the_limit_is_refused_and_probes_are_not() {
    let edge = edge(1);
    let never =
        service_fn(|_: Request| std::future::pending::<Result<Response<Body>, Infallible>>());
    let done = service_fn(|_: Request| {
        std::future::ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    });
    let path = "/cubecast.v1.PeerService/Pull";
    let mut held = edge.layer(never).oneshot(request(path));
    assert!(futures::poll!(&mut held).is_pending());
    assert_eq!(edge.calls(), 1);

    let refused = edge.layer(done).oneshot(request(path)).await.unwrap();
    let status = Status::from_header_map(refused.headers()).unwrap();
    assert_eq!(reason(&status), Some(ErrorReason::Overloaded));
    let probe = edge
        .layer(done)
        .oneshot(request("/grpc.health.v1.Health/Check"))
        .await
        .unwrap();
    assert!(!probe.headers().contains_key("grpc-status"));

    drop(held);
    assert_eq!(edge.calls(), 0);
    let taken = edge.layer(done).oneshot(request(path)).await.unwrap();
    assert!(!taken.headers().contains_key("grpc-status"));
}

#[tokio::test]
async fn answer_that_is_watched_tells_when_its_last_part_was_taken() {
    let (delivery, taken) = Delivery::new();
    let waiting = Arc::new(Mutex::new(Some(delivery)));
    let answers = service_fn(move |_: Request| {
        let mut response = Response::new(Body::new("done".to_owned()));
        let delivery = waiting.lock().unwrap().take().unwrap();
        response.extensions_mut().insert(delivery);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let path = "/cubecast.v1.PeerService/StopNode";
    let answer = edge(1).layer(answers).oneshot(request(path)).await.unwrap();
    // The head is sent, and its extensions are gone; the body is still on its way.
    let (head, mut body) = answer.into_parts();
    drop(head);
    let part = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
    assert_eq!(part.unwrap().unwrap().into_data().unwrap(), "done");
    assert!(!taken.is_cancelled());
    drop(body);
    assert!(taken.is_cancelled());
}
