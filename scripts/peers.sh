# Sourced by the scripts beside it: a binary, the tools, and eight peers in a scratch folder for as long as the script runs.
# Nothing outside ./target and the scratch folder is written; only processes that were started here are stopped.

readonly ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly TOOLS="$ROOT/target/ci"
readonly START_SECONDS_MAX=60
SCRATCH=""
PEERS_PID=""

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# BINARY: the argument, or CUBECAST_BIN, or a debug build made now.
need_binary() {
    BINARY="${1:-${CUBECAST_BIN:-}}"
    if [[ -z "$BINARY" ]]; then
        (cd "$ROOT" && cargo build --locked --bin cubecast) || fail "the build failed"
        BINARY="${CARGO_TARGET_DIR:-$ROOT/target}/debug/cubecast"
    fi
    [[ -x "$BINARY" ]] || fail "$BINARY is no program"
    BINARY="$(cd "$(dirname "$BINARY")" && pwd)/$(basename "$BINARY")"
}

# buf and grpcio, in a folder of their own, at the versions of requirements.txt.
need_tools() {
    if ! cmp -s "$ROOT/scripts/requirements.txt" "$TOOLS/requirements.txt"; then
        python3 -m venv "$TOOLS"
        "$TOOLS/bin/python3" -m pip install --quiet --disable-pip-version-check -r "$ROOT/scripts/requirements.txt"
        cp "$ROOT/scripts/requirements.txt" "$TOOLS/requirements.txt"
    fi
    export PATH="$TOOLS/bin:$PATH"
}

# BASE_PORT: CUBECAST_BASE_PORT; otherwise the argument when eight ports from there are free; otherwise eight others that are.
need_ports() {
    BASE_PORT="${CUBECAST_BASE_PORT:-$(python3 "$ROOT/scripts/free_ports.py" "$1")}"
    # What is set for another cluster is not for this one.
    unset "${!CUBECAST_@}"
}

need_scratch() {
    SCRATCH="$(mktemp -d)"
    trap clean EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

clean() {
    local code=$?
    stop_peers
    if [[ "$code" -ne 0 && -s "$SCRATCH/peers.log" ]]; then
        echo "the last lines of the peers:" >&2
        tail -n 40 "$SCRATCH/peers.log" >&2
    fi
    rm -rf "$SCRATCH"
    exit "$code"
}

start_peers() {
    "$BINARY" dev --base-port "$BASE_PORT" --data-dir "$SCRATCH/data" > "$SCRATCH/peers.log" 2>&1 &
    PEERS_PID=$!
    local port deadline=$((SECONDS + START_SECONDS_MAX))
    for ((port = BASE_PORT; port < BASE_PORT + 8; port++)); do
        until "$BINARY" health --address "http://127.0.0.1:$port" > "$SCRATCH/health" 2>&1; do
            kill -0 "$PEERS_PID" 2> /dev/null || fail "the peers did not start"
            ((SECONDS < deadline)) || fail "port $port after $START_SECONDS_MAX s: $(cat "$SCRATCH/health")"
            sleep 0.2
        done
    done
}

stop_peers() {
    [[ -n "$PEERS_PID" ]] || return 0
    kill -TERM "$PEERS_PID" 2> /dev/null || true
    wait "$PEERS_PID" 2> /dev/null || true
    PEERS_PID=""
}
