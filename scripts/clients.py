"""Calls eight peers with a client that is not ours, and checks every answer.

    clients.py buf|grpcio BASE_PORT

No .proto file is read: both clients learn the API from the peers' reflection service. One scenario runs on both, each call at the next peer.
"""

import base64
import json
import subprocess
import sys
import uuid

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "cubecast.v1.PeerService"
PEERS = 8
# The low three bits of SHA-256 of the name, and the neighbours in bit order.
OWNERS = {"news": "100", "cricket": "111", "topic2": "110", "topic4": "101", "topic16": "010"}
NEIGHBOURS = {
    "100": ["101", "110", "000"],
    "111": ["110", "101", "011"],
    "110": ["111", "100", "010"],
    "101": ["100", "111", "001"],
    "010": ["011", "000", "110"],
}


class Refused(Exception):
    """A typed error: the gRPC code's name, the reason and the metadata of its ErrorInfo."""

    def __init__(self, code, details):
        infos = [detail for detail in details if isinstance(detail, error_details_pb2.ErrorInfo)]
        if len(infos) != 1:
            raise AssertionError(f"{code} with {len(infos)} ErrorInfo in {details}")
        super().__init__(f"{code} {infos[0].reason} {dict(infos[0].metadata)}")
        self.code, self.reason, self.metadata = code, infos[0].reason, dict(infos[0].metadata)
        self.domain = infos[0].domain
        self.fields = [
            violation.field
            for detail in details
            if isinstance(detail, error_details_pb2.BadRequest)
            for violation in detail.field_violations
        ]


def detail_of(name, data):
    """A detail of an error, if it is of a kind that is looked at."""
    kinds = {"google.rpc.ErrorInfo": error_details_pb2.ErrorInfo, "google.rpc.BadRequest": error_details_pb2.BadRequest}
    return kinds[name].FromString(data) if name in kinds else None


class Buf:
    """`buf curl`, a process for each call."""

    name = "buf"

    def curl(self, port, path, *flags):
        command = ["buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", *flags, f"http://127.0.0.1:{port}{path}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def services(self, port):
        done = self.curl(port, "", "--list-services")
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def call(self, port, method, request):
        done = self.curl(port, f"/{method}", "--data", json.dumps(request))
        if done.returncode == 0:
            return json.loads(done.stdout)
        try:
            error = json.loads(done.stderr)
        except ValueError:
            raise AssertionError(f"buf said: {done.stderr}") from None
        # Base64 without padding; more of it than needed is no harm.
        details = [detail_of(each["type"], base64.b64decode(each["value"] + "==")) for each in error.get("details", [])]
        raise Refused(error["code"].upper(), details)


class Grpcio:
    """grpcio, with message types made from the descriptors that a peer sends."""

    name = "grpcio"

    def __init__(self, base):
        self.channels = {port: grpc.insecure_channel(f"127.0.0.1:{port}") for port in range(base, base + PEERS)}
        self.databases = {port: ProtoReflectionDescriptorDatabase(channel) for port, channel in self.channels.items()}
        self.pools = {port: descriptor_pool.DescriptorPool(database) for port, database in self.databases.items()}

    def services(self, port):
        return list(self.databases[port].get_services())

    def call(self, port, method, request):
        service, name = method.split("/")
        described = self.pools[port].FindServiceByName(service).methods_by_name[name]
        request_type, response_type = map(message_factory.GetMessageClass, (described.input_type, described.output_type))
        invoke = self.channels[port].unary_unary(
            f"/{method}", request_serializer=request_type.SerializeToString, response_deserializer=response_type.FromString
        )
        try:
            return json_format.MessageToDict(invoke(json_format.ParseDict(request, request_type()), timeout=20))
        except grpc.RpcError as error:
            trailer = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
            assert trailer, f"an error without details: {error}"
            status = status_pb2.Status.FromString(trailer)
            assert status.code == error.code().value[0], status
            details = [detail_of(each.type_url.split("/")[-1], each.value) for each in status.details]
            raise Refused(error.code().name, details) from None


class Scenario:
    """What an application does, checked. Names end in the client's, so that both run on the same peers."""

    def __init__(self, client, base):
        self.client, self.base, self.calls, self.asked = client, base, 0, set()

    def next_port(self):
        port = self.base + self.calls % PEERS
        self.calls += 1
        self.asked.add(port)
        return port

    def call(self, method, **request):
        return self.client.call(self.next_port(), f"{SERVICE}/{method}", request)

    def refused(self, code, reason, method, **request):
        try:
            answer = self.call(method, **request)
        except Refused as error:
            expect((error.code, error.reason, error.domain), (code, reason, "cubecast"), method)
            return error
        raise AssertionError(f"{method} was to fail with {reason}, and answered {answer}")

    def run(self):
        self.finds_the_services()
        self.creates()
        self.publishes_and_pulls()
        self.locates()
        self.is_refused()
        expect(len(self.asked), PEERS, "peers asked")

    def finds_the_services(self):
        for port in range(self.base, self.base + PEERS):
            expect(self.client.call(port, "grpc.health.v1.Health/Check", {}), {"status": "SERVING"}, f"health of {port}")
        found = self.client.services(self.next_port())
        for service in (SERVICE, "cubecast.v1.ClusterService", "grpc.health.v1.Health"):
            assert service in found, f"{service} is not among {found}"
        health = self.client.call(self.next_port(), "grpc.health.v1.Health/Check", {"service": SERVICE})
        expect(health, {"status": "SERVING"}, f"health of {SERVICE}")

    def creates(self):
        name = self.client.name
        made = self.call("CreatePublisher", publisher=f"agency-{name}")
        expect(made["publisher"]["publisher"], f"agency-{name}", "publisher")
        again = {"topic": f"news-{name}", "publisher": f"agency-{name}", "requestId": str(uuid.uuid4())}
        first = self.call("CreateTopic", **again)
        expect(first["topic"]["creator"], f"agency-{name}", "creator")
        expect(len(first["placement"]["replicas"]), 3, "replicas beside the owner")
        expect(self.call("CreateTopic", **again)["topic"], first["topic"], "a creation repeated with its request_id")
        self.call("CreateSubscriber", subscriber=f"reader-{name}")
        made = self.call("Subscribe", topic=f"news-{name}", subscriber=f"reader-{name}")
        expect(made.get("isExisting", False), False, "a new subscription")

    def publishes_and_pulls(self):
        name = self.client.name
        topic, both = f"news-{name}", {"topic": f"news-{name}", "subscriber": f"reader-{name}"}
        messages = [{"payload": encoded("rain")}, {"payload": encoded("sun"), "key": encoded("weather")}]
        messages += [{"payload": encoded("snow"), "headers": [{"name": "lang", "value": encoded("en")}]}]
        publish = {"topic": topic, "publisher": f"agency-{name}", "messages": messages}
        publish["sequence"] = {"session": "7", "sequence": "0"}
        done = self.call("Publish", **publish)
        expect((done.get("firstOffset", "0"), done["messageCount"]), ("0", 3), "a first publish")
        expect(done["reached"], "ACK_LEVEL_QUORUM", "level")
        assert len(done["storedBy"]) >= 2, f"a majority of three voters is two: {done}"
        repeated = self.call("Publish", **publish)
        expect((repeated.get("firstOffset", "0"), repeated["isDuplicate"]), ("0", True), "a publish sent again")

        pulled = self.call("Pull", **both, maxMessages=2)
        expect(received(pulled), [(0, "rain"), (1, "sun")], "a pull of two")
        rest = self.call("Pull", **both, acknowledgeTo="2", wait="5s")
        expect(received(rest), [(2, "snow")], "the rest")
        expect(rest["batches"][0]["messages"][0]["headers"], messages[2]["headers"], "headers")
        expect(rest["batches"][0]["origin"]["publisher"], f"agency-{name}", "origin")
        expect(self.call("Acknowledge", **both, nextOffset="3")["cursor"], "3", "cursor")
        expect(received(self.call("Pull", **both)), [], "a pull of nothing new")
        self.call("Seek", **both, start={"earliest": {}})
        again = self.call("Pull", **both, consistency="READ_CONSISTENCY_LINEARIZABLE")
        expect([text for _, text in received(again)], ["rain", "sun", "snow"], "all again")

    def locates(self):
        for topic, owner in OWNERS.items():
            place = self.call("LocateTopic", topic=topic)
            expect(place.get("exists", False), False, topic)
            expect((place["placement"]["owner"], place["placement"]["replicas"]), (owner, NEIGHBOURS[owner]), topic)
            expect(len(place["replicas"]), 4, f"replicas of {topic}")
            expect(place["leaderAddress"], f"http://127.0.0.1:{self.base + int(owner, 2)}", f"leader of {topic}")
        listed = self.call("ListTopics", publisher=f"agency-{self.client.name}")
        expect([topic["name"] for topic in listed["topics"]], [f"news-{self.client.name}"], "topics of the publisher")
        listed = self.call("ListSubscriptions", subscriber=f"reader-{self.client.name}")
        expect([each["topic"] for each in listed["subscriptions"]], [f"news-{self.client.name}"], "topics of the subscriber")

    def is_refused(self):
        name = self.client.name
        topic, payload = f"news-{name}", [{"payload": encoded("x")}]
        error = self.refused("ALREADY_EXISTS", "TOPIC_ALREADY_EXISTS", "CreateTopic", topic=topic)
        expect(error.metadata, {"topic": topic}, "metadata")
        self.refused("NOT_FOUND", "TOPIC_NOT_FOUND", "Publish", topic="nothing", messages=payload)
        self.refused("NOT_FOUND", "PUBLISHER_NOT_FOUND", "Publish", topic=topic, publisher="nobody", messages=payload)
        self.refused("NOT_FOUND", "SUBSCRIPTION_NOT_FOUND", "Pull", topic=topic, subscriber="nobody")
        error = self.refused("INVALID_ARGUMENT", "NAME_INVALID", "CreateTopic", topic="two words")
        expect((error.metadata["limit"], error.fields), ("249", ["topic"]), "what is wrong with a name")
        self.refused("INVALID_ARGUMENT", "BATCH_EMPTY", "Publish", topic=topic)
        self.refused("INVALID_ARGUMENT", "MESSAGE_EMPTY", "Publish", topic=topic, messages=[{}])
        gap = {"publisher": f"agency-{name}", "sequence": {"session": "7", "sequence": "9"}}
        error = self.refused("FAILED_PRECONDITION", "SEQUENCE_GAP", "Publish", topic=topic, messages=payload, **gap)
        expect(error.metadata["expected"], "1", "the number that comes next")
        self.refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", "ListTopics", pageToken="abc")
        self.refused("OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE", "Seek", topic=topic, subscriber=f"reader-{name}", start={"offset": "4"})


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def received(pulled):
    """Offset and text of each message of a pull."""
    return [
        (int(batch.get("baseOffset", "0")) + index, base64.b64decode(message["payload"]).decode())
        for batch in pulled.get("batches", [])
        for index, message in enumerate(batch["messages"])
    ]


def expect(actual, expected, what):
    assert actual == expected, f"{what}: expected {expected}, got {actual}"


def main():
    kind, base = sys.argv[1], int(sys.argv[2])
    scenario = Scenario(Buf() if kind == "buf" else Grpcio(base), base)
    try:
        scenario.run()
    except (AssertionError, Refused) as error:
        sys.exit(f"{kind}: {error}")
    print(f"{kind}: {scenario.calls + PEERS} calls to {len(scenario.asked)} peers were answered as expected")


main()
