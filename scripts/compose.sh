#!/usr/bin/env bash
# Eight peers as eight containers, for real: builds the image of the Dockerfile, brings docker-compose.yml up and tries it from this
# machine through the published ports: create, publish and pull through every peer, one peer killed and restarted, `down` and `up` with the
# volumes kept, a graceful stop. Prints figures. Fails when anything is not as expected; what it started is gone at the end either way.
#
#   scripts/compose.sh [BINARY]        BINARY or CUBECAST_BIN is the CLI to use; without either it is the image's own
#
# It skips, with success, where no Docker engine, no docker-compose or no base image is. The published ports are those of the file when they
# are free, and others when not; CUBECAST_BASE_PORT names others.
# The images stay: cubecast:latest, and the build stage as the cache of the next build.
set -euo pipefail

readonly ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly PROJECT="cubecast-compose-test"
readonly IMAGE="cubecast:latest"
readonly VERTICES=(000 001 010 011 100 101 110 111)
readonly BUILD_SECONDS_MAX=3000
readonly HEALTHY_SECONDS_MAX=90
readonly STEP_SECONDS_MAX=120
readonly ELECTION_SECONDS_MAX=20
# As stop_grace_period in docker-compose.yml: later, Docker kills.
readonly STOP_SECONDS_MAX=15
SCRATCH=""

say() { echo "compose: $*"; }

skip() {
    say "SKIPPED: $*"
    exit 0
}

fail() {
    echo "compose: FAILED: $*" >&2
    exit 1
}

# ------------------------------------------------------------------------------------------------------------------------------ tools

compose() {
    local seconds="$STEP_SECONDS_MAX"
    [[ "$1" != build ]] || seconds="$BUILD_SECONDS_MAX"
    timeout "$seconds" docker-compose --project-name "$PROJECT" --project-directory "$ROOT" --file "$FILE" "$@"
}

# As `compose`, but what it prints is shown only when it fails.
quietly() {
    compose "$@" > "$SCRATCH/compose.log" 2>&1 || {
        cat "$SCRATCH/compose.log" >&2
        fail "docker-compose $* failed"
    }
}

# The container of a vertex, running or not.
container() { timeout 20 docker ps --all --quiet --filter "label=com.docker.compose.project=$PROJECT" --filter "label=com.docker.compose.service=node-$1"; }

# inspect VERTEX FORMAT
inspect() { timeout 20 docker inspect --format "$2" "$(container "$1")"; }

# Where the peer of a vertex is reached from this machine.
address() { echo "http://127.0.0.1:$((BASE_PORT + 2#$1))"; }

now() { date +%s%N; }

# Seconds since a time of `now`, with one digit after the point.
since() {
    local tenths=$((($(now) - $1) / 100000000))
    echo "$((tenths / 10)).$((tenths % 10)) s"
}

expect() {
    [[ "$2" == "$3" ]] || fail "$1: expected '$3', found '$2'"
}

# cli ADDRESSES ARGUMENTS...: only these addresses are given. Standard error is shown only on failure.
cli() {
    local addresses="$1"
    shift
    timeout 60 "$BINARY" --address "$addresses" "$@" 2> "$SCRATCH/error" || {
        local code=$?
        echo "cubecast --address $addresses $*" >&2
        cat "$SCRATCH/error" >&2
        return "$code"
    }
}

# wait_for SECONDS WHAT COMMAND...: repeats a command until it succeeds.
wait_for() {
    local deadline=$((SECONDS + $1)) what="$2"
    shift 2
    until "$@" > "$SCRATCH/wait" 2>&1; do
        ((SECONDS < deadline)) || {
            cat "$SCRATCH/wait" >&2
            fail "waited in vain for $what"
        }
        sleep 0.2
    done
}

all_healthy() {
    local vertex health
    for vertex in "${VERTICES[@]}"; do
        health="$(inspect "$vertex" '{{.State.Status}} {{.State.Health.Status}}')" || return 1
        [[ "$health" == "running healthy" ]] || {
            echo "node-$vertex is $health"
            return 1
        }
    done
}

# All peers answer, and every replica of every shard has all that is committed. The CLI hears of the peers through the published ports only.
all_caught_up() {
    local status
    status="$(cli "$ALL" --output json status)" || return 1
    echo "$status"
    [[ "$(grep -c '"kind":"peer"' <<< "$status")" -eq 8 ]] || return 1
    [[ "$(grep -c '"kind":"shard"' <<< "$status")" -eq 8 ]] || return 1
    ! grep -qE 'unreachable|"lag_entries":[1-9]' <<< "$status"
}

clean() {
    local code=$?
    trap - EXIT
    if [[ "$code" -ne 0 ]]; then
        compose ps >&2 || true
        compose logs --no-color --tail 15 >&2 || true
    fi
    compose down --volumes --remove-orphans --timeout 5 > "$SCRATCH/down.log" 2>&1 || {
        cat "$SCRATCH/down.log" >&2
        code=1
    }
    rm -rf "$SCRATCH"
    exit "$code"
}

# -------------------------------------------------------------------------------------------------------------------------- beginning

need_engine() {
    command -v docker > /dev/null || skip "there is no docker"
    command -v docker-compose > /dev/null || skip "there is no docker-compose"
    timeout 20 docker info > /dev/null 2>&1 || skip "no Docker engine answers"
    local base
    base="$(sed -n 's/^FROM \([^ ]*\) AS builder$/\1/p' "$ROOT/Dockerfile")"
    [[ -n "$base" ]] || fail "the Dockerfile has no builder stage"
    timeout 20 docker image inspect "$base" > /dev/null 2>&1 || skip "there is no base image: docker pull $base"
}

are_free() {
    local port
    for ((port = $1; port < $1 + 8; port++)); do
        # The subshell closes the socket.
        if (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then return 1; fi
    done
}

# BASE_PORT; ALL, the addresses; FILE, which is docker-compose.yml unless the ports must be others.
need_ports() {
    local base vertex
    BASE_PORT=""
    # Below the range from which the system gives ports to clients.
    for base in "${1:-8000}" {21000..29000..500}; do
        if are_free "$base"; then
            BASE_PORT="$base"
            break
        fi
    done
    [[ -n "$BASE_PORT" ]] || fail "no eight free ports"
    ALL=""
    for vertex in "${VERTICES[@]}"; do ALL+="${ALL:+,}$(address "$vertex")"; done
    ((BASE_PORT != 8000)) || return 0
    say "published at the ports from $BASE_PORT, not from 8000"
    FILE="$SCRATCH/docker-compose.yml"
    local script=""
    for vertex in "${VERTICES[@]}"; do script+="s/\"127\.0\.0\.1:$((8000 + 2#$vertex)):/\"127.0.0.1:$((BASE_PORT + 2#$vertex)):/;"; done
    sed "$script" "$ROOT/docker-compose.yml" > "$FILE"
}

# BINARY: the argument, or that of the image, which needs nothing but a kernel.
need_binary() {
    BINARY="$1"
    if [[ -z "$BINARY" ]]; then
        BINARY="$SCRATCH/cubecast"
        local made
        made="$(timeout 20 docker create --label "com.docker.compose.project=$PROJECT" "$IMAGE")"
        timeout 60 docker cp "$made:/cubecast" "$BINARY"
        timeout 20 docker rm --volumes "$made" > /dev/null
    fi
    [[ -x "$BINARY" ]] || fail "$BINARY is no program"
}

# ------------------------------------------------------------------------------------------------------------------------------ steps

build() {
    local begun
    begun="$(now)"
    compose build > "$SCRATCH/build.log" 2>&1 || {
        tail -n 40 "$SCRATCH/build.log" >&2
        fail "the image was not built"
    }
    say "built in $(since "$begun")"
    local bytes
    bytes="$(docker image inspect --format '{{.Size}}' "$IMAGE")"
    say "image of $((bytes / 1000000)) MB"
    expect "user of the image" "$(docker image inspect --format '{{.Config.User}}' "$IMAGE")" 65532:65532
}

# up WHY
up() {
    local begun
    begun="$(now)"
    quietly up --detach --no-build
    wait_for "$HEALTHY_SECONDS_MAX" "eight healthy peers" all_healthy
    say "$1: eight healthy after $(since "$begun")"
    wait_for "$STEP_SECONDS_MAX" "replicas that have everything" all_caught_up
    say "$1: every shard led and every replica level after $(since "$begun")"
}

containers_are_closed() {
    local vertex
    for vertex in "${VERTICES[@]}"; do
        expect "root file system of node-$vertex" "$(inspect "$vertex" '{{.HostConfig.ReadonlyRootfs}}')" true
        expect "user of node-$vertex" "$(timeout 20 docker top "$(container "$vertex")" -eo pid,uid,gid | awk 'NR > 1 { print $2, $3 }')" \
            "65532 65532"
        expect "addresses that node-$vertex is published at" \
            "$(inspect "$vertex" '{{range .NetworkSettings.Ports}}{{range .}}{{.HostIp}} {{end}}{{end}}')" "127.0.0.1 "
    done
    say "all run as 65532:65532 on a read-only root, at loopback ports only"
}

# One topic through each published port, alone: what the peers tell of addresses is good only inside their network.
use_each_port() {
    local i alone begun
    begun="$(now)"
    cli "$ALL" subscriber create compose-reader > /dev/null
    cli "$ALL" publisher create compose-writer > /dev/null
    for i in {0..7}; do
        alone="$(address "${VERTICES[i]}")"
        cli "$alone" topic create "compose-$i" > /dev/null
        cli "$alone" subscribe "compose-$i" --subscriber compose-reader > /dev/null
        cli "$alone" publish "compose-$i" "one of $i" "two of $i" --publisher compose-writer --acks all > /dev/null
        expect "pull of compose-$i through $alone" "$(cli "$alone" pull "compose-$i" --subscriber compose-reader)" \
            "$(printf '0  one of %d\n1  two of %d' "$i" "$i")"
    done
    say "create, subscribe, publish and pull through each port alone: $(since "$begun")"

    begun="$(now)"
    for i in {0..7}; do
        cli "$ALL" publish "compose-$i" "three of $i" --publisher compose-writer > /dev/null
    done
    say "eight publishes with all ports known: $(since "$begun")"
    say "topics are owned by $(cli "$ALL" --output json topic list | sed 's/.*"owner":"\([01]*\)".*/\1/' | sort -u | tr '\n' ' ')"
}

# A client that is not ours, by reflection alone, where it is installed.
use_buf() {
    if ! buf --version > /dev/null 2>&1; then
        say "no buf here: not tried"
        return
    fi
    local curl=(timeout 60 buf curl --protocol grpc --http2-prior-knowledge)
    "${curl[@]}" --data '{"topic":"compose-buf"}' "$(address 001)/cubecast.v1.PeerService/CreateTopic" > /dev/null
    "${curl[@]}" --data '{"topic":"compose-buf","messages":[{"payload":"c25vdw=="}]}' "$(address 010)/cubecast.v1.PeerService/Publish" > /dev/null
    "${curl[@]}" --data '{"topic":"compose-buf","subscriber":"compose-reader"}' "$(address 011)/cubecast.v1.PeerService/Subscribe" > /dev/null
    cli "$ALL" seek compose-buf earliest --subscriber compose-reader > /dev/null
    "${curl[@]}" --data '{"topic":"compose-buf","subscriber":"compose-reader","wait":"5s"}' "$(address 100)/cubecast.v1.PeerService/Pull" \
        > "$SCRATCH/buf"
    grep -q '"payload": "c25vdw=="' "$SCRATCH/buf" || fail "buf curl pulled: $(cat "$SCRATCH/buf")"
    say "buf curl created, published, subscribed and pulled by reflection"
}

# leader_of TOPIC [ADDRESSES]
leader_of() {
    local led
    led="$(cli "${2:-$ALL}" --output json topic locate "$1")" || return 1
    led="$(sed -n 's/.*"leader":"\([01]*\)".*/\1/p' <<< "$led")"
    [[ -n "$led" ]] || return 1
    echo "$led"
}

# The leader of a topic dies: the topic goes on. Then the peer is started again and catches up.
kill_one() {
    local topic=compose-0 vertex begun others offset
    vertex="$(leader_of "$topic")" || fail "nobody leads $topic"
    others="$(tr ',' '\n' <<< "$ALL" | grep -vxF "$(address "$vertex")" | paste -sd ,)"
    timeout 20 docker kill "$(container "$vertex")" > /dev/null
    begun="$(now)"
    wait_for 10 "the end of node-$vertex" exited "$vertex"
    # One call, which waits for the election itself.
    cli "$ALL" --timeout "${ELECTION_SECONDS_MAX}s" publish "$topic" "without $vertex" --publisher compose-writer > /dev/null \
        || fail "no publish to $topic after node-$vertex was killed"
    say "node-$vertex, leader of $topic, killed: a publish to it was acknowledged $(since "$begun") later"
    begun="$(now)"
    cli "$others" publish "$topic" "still without $vertex" --publisher compose-writer > /dev/null
    say "the next one, through the other ports only: $(since "$begun")"
    [[ "$(leader_of "$topic" "$others")" != "$vertex" ]] || fail "the dead node-$vertex still leads $topic"
    expect "topic $topic without node-$vertex" "$(cli "$others" pull "$topic" --subscriber compose-reader)" \
        "$(printf '2  three of 0\n3  without %s\n4  still without %s' "$vertex" "$vertex")"
    without_publisher "$topic" "$others"

    begun="$(now)"
    quietly start "node-$vertex"
    wait_for "$HEALTHY_SECONDS_MAX" "eight healthy peers" all_healthy
    wait_for "$STEP_SECONDS_MAX" "node-$vertex to catch up" all_caught_up
    say "node-$vertex started again: healthy and level after $(since "$begun")"
}

# Nobody's publish is not repeated when its fate is unknown, so the other peers must know that a call to the dead one was never sent.
without_publisher() {
    local alone address
    IFS=, read -ra alone <<< "$2"
    for address in "${alone[@]}"; do
        cli "$address" --timeout 5s publish "$1" "anonymous" > /dev/null 2> "$SCRATCH/refused" \
            || fail "without a publisher $address took no publish: $(tail -n 1 "$SCRATCH/refused")"
    done
    say "publishes without a publisher go on through each port alone, too"
}

exited() { [[ "$(inspect "$1" '{{.State.Status}}')" == exited ]]; }

# A graceful stop of one, then of all: in time, and with success.
stop_all() {
    local begun vertex
    begun="$(now)"
    quietly stop node-000
    say "one peer stopped in $(since "$begun")"
    begun="$(now)"
    quietly stop
    (($(now) - begun < STOP_SECONDS_MAX * 1000000000)) || fail "the stop took $(since "$begun")"
    say "the others stopped in $(since "$begun")"
    for vertex in "${VERTICES[@]}"; do
        expect "exit code of node-$vertex" "$(inspect "$vertex" '{{.State.ExitCode}} {{.State.OOMKilled}}')" "0 false"
    done
}

# New containers on the same volumes: messages and cursors stand.
down_and_up() {
    local i
    quietly down
    expect "containers after down" "$(timeout 20 docker ps --all --quiet --filter "label=com.docker.compose.project=$PROJECT")" ""
    expect "volumes after down" "$(timeout 20 docker volume ls --quiet --filter "label=com.docker.compose.project=$PROJECT" | wc -l)" 8
    up "new containers on the old volumes"
    for i in {1..7}; do
        expect "what is new in compose-$i" "$(cli "$ALL" pull "compose-$i" --subscriber compose-reader)" "2  three of $i"
    done
    for i in {0..7}; do
        cli "$ALL" seek "compose-$i" earliest --subscriber compose-reader > /dev/null
        expect "the first messages of compose-$i" "$(cli "$ALL" pull "compose-$i" --subscriber compose-reader | head -n 3)" \
            "$(printf '0  one of %d\n1  two of %d\n2  three of %d' "$i" "$i" "$i")"
    done
    say "messages and cursors stand"
}

all_gone() {
    quietly down --volumes
    local kind
    for kind in "ps --all" "volume ls" "network ls"; do
        # shellcheck disable=SC2086 # Two words.
        expect "docker $kind after down --volumes" "$(timeout 20 docker $kind --quiet --filter "label=com.docker.compose.project=$PROJECT")" ""
    done
    say "containers, volumes and network are gone"
}

need_engine
# What is set for another cluster is not for this one.
GIVEN_BINARY="${1:-${CUBECAST_BIN:-}}"
GIVEN_PORT="${CUBECAST_BASE_PORT:-}"
unset "${!CUBECAST_@}" "${!COMPOSE_@}"
FILE="$ROOT/docker-compose.yml"
SCRATCH="$(mktemp -d)"
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# What an interrupted run left.
quietly down --volumes --remove-orphans --timeout 5
need_ports "$GIVEN_PORT"
build
need_binary "$GIVEN_BINARY"
up "new"
containers_are_closed
use_each_port
use_buf
kill_one
stop_all
down_and_up
all_gone
say "all passed in $SECONDS s"
