use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use cubecast_sdk::proto::v1::ErrorReason;
use http::{Request, Response};
use http_body::Body as _;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, ServiceExt, service_fn};

use super::{Delivery, Edge};
use crate::rpc::context::{Arrival, TRACE_PARENT};
use crate::rpc::status::{Fault, reason};
use crate::types::{Limits, PeerId};

fn request(path: &str) -> Request<Body> {
    Request::builder().uri(path).body(Body::empty()).unwrap()
}

fn edge(calls_max: u32) -> Edge {
    Edge::new(
        PeerId(4),
        &Limits {
            calls_max,
            ..Limits::default()
        },
        1,
    )
}

/// What a caller is told when the method gives this status.
async fn told(status: Status) -> Status {
    let service = service_fn(move |_: Request<Body>| {
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
    let service = service_fn(|_: Request<Body>| async { panic!("the method is not reached") });
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
    let service = service_fn(move |request: Request<Body>| {
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
        Some((Some(std::time::Duration::from_millis(250)), true))
    );
}

#[tokio::test]
async fn call_beyond_the_limit_is_refused_and_probes_are_not() {
    let edge = edge(1);
    let never =
        service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
    let done = service_fn(|_: Request<Body>| {
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
    let answers = service_fn(move |_: Request<Body>| {
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
