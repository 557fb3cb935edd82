#!/usr/bin/env bash
# Eight peers, called by two clients that are not ours and know nothing but what gRPC reflection tells them: `buf curl` (reflection v1)
# and Python's grpcio (reflection v1alpha). Fails when any answer is not as expected.
#
#   scripts/clients.sh [BINARY]        BINARY or CUBECAST_BIN; without either a debug build is made
#   CUBECAST_BASE_PORT=9000 scripts/clients.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/peers.sh"

need_binary "${1:-}"
need_tools
need_ports 8100
need_scratch
start_peers

for client in buf grpcio; do
    "$TOOLS/bin/python3" "$ROOT/scripts/clients.py" "$client" "$BASE_PORT"
done
