//! What tools ask of any gRPC server: health and reflection.

use cubecast::testing::TestCluster;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest as Question;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse as Answer;
use tonic_reflection::pb::{v1, v1alpha};

/// What a client must be able to discover beside reflection itself; the peers' own package is not among it.
const SERVICES: [&str; 3] = [
    "cubecast.v1.ClusterService",
    "cubecast.v1.PeerService",
    "grpc.health.v1.Health",
];

async fn channel(address: &str) -> Channel {
    let endpoint = Channel::from_shared(address.to_owned()).unwrap();
    endpoint.connect().await.unwrap()
}

// Health of the peer and of each service, reflection in both versions, on each peer.
#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer_on_every_peer() {
    let mut cluster = TestCluster::start().await;
    for address in cluster.addresses() {
        let channel = channel(address).await;
        check_health(channel.clone()).await;
        assert_services(&listed(channel.clone()).await, "v1");
        assert_services(&listed_in_alpha(channel).await, "v1alpha");
    }
    let channel = channel(cluster.address(3)).await;
    look_up(channel).await;
    cluster.stop().await;
}

fn assert_services(listed: &[String], version: &str) {
    let itself = format!("grpc.reflection.{version}.ServerReflection");
    let expected: Vec<&str> = SERVICES.into_iter().chain([itself.as_str()]).collect();
    assert_eq!(listed, expected);
}

async fn check_health(channel: Channel) {
    let mut health = HealthClient::new(channel);
    let check = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    for service in ["", "cubecast.v1.PeerService", "cubecast.v1.ClusterService"] {
        let answer = health.check(check(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(check("cubecast.v1.Nothing")).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
}

async fn listed(channel: Channel) -> Vec<String> {
    let answer = reflect(channel, Question::ListServices(String::new())).await;
    let Answer::ListServicesResponse(list) = answer else {
        panic!("a list answers: {answer:?}");
    };
    let mut names: Vec<String> = list.service.into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

async fn reflect(channel: Channel, question: Question) -> Answer {
    ask(channel, question).await.unwrap()
}

async fn ask(channel: Channel, question: Question) -> Result<Answer, Status> {
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let call = client.server_reflection_info(tokio_stream::once(request));
    let answer = call.await?.into_inner().message().await?.unwrap();
    Ok(answer.message_response.unwrap())
}

async fn listed_in_alpha(channel: Channel) -> Vec<String> {
    use v1alpha::server_reflection_request::MessageRequest;
    use v1alpha::server_reflection_response::MessageResponse;
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let call = client.server_reflection_info(tokio_stream::once(request));
    let mut answers = call.await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("a list answers: {answer:?}");
    };
    let mut names: Vec<String> = list.service.into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

/// What a client by reflection alone needs: the file of a method, and the types of an error's details.
async fn look_up(channel: Channel) {
    let symbols = [
        "cubecast.v1.PeerService.Publish",
        "cubecast.v1.ErrorReason",
        "google.rpc.ErrorInfo",
    ];
    for symbol in symbols {
        let question = Question::FileContainingSymbol(symbol.to_owned());
        let answer = reflect(channel.clone(), question).await;
        let Answer::FileDescriptorResponse(files) = answer else {
            panic!("{symbol} is found: {answer:?}");
        };
        assert!(!files.file_descriptor_proto.is_empty(), "{symbol}");
    }
    // The peers' own package is not published.
    let secret = "cubecast.peer.v1.RaftService".to_owned();
    let hidden = ask(channel, Question::FileContainingSymbol(secret)).await;
    assert_eq!(hidden.unwrap_err().code(), Code::NotFound);
}
