#!/usr/bin/env bash
# Walks the tour of README.md: runs the commands of its blocks, in order, and compares what they print with what the page shows.
# tour.py says which blocks and what may differ. The ports are those of the page when they are free, and others when not.
#
#   scripts/tour.sh [BINARY]           BINARY or CUBECAST_BIN stands for target/release/cubecast; without either a debug build is made
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/peers.sh"

need_binary "${1:-}"
need_tools
need_ports 8000
need_scratch

# The page builds and runs a release; here the binary at hand answers to the same words.
mkdir "$SCRATCH/bin"
ln -s "$BINARY" "$SCRATCH/bin/cubecast"
cat > "$SCRATCH/bin/cargo" <<SHIM
#!/usr/bin/env bash
if [[ "\$*" == "run --release --locked -- dev" ]]; then exec "$BINARY" dev; fi
exec "$(command -v cargo)" "\$@"
SHIM
chmod +x "$SCRATCH/bin/cargo"

cd "$ROOT"
"$TOOLS/bin/python3" scripts/tour.py "$BASE_PORT" "$SCRATCH"
