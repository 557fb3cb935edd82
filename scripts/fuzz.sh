#!/usr/bin/env bash
# Feeds bytes to the decoders for a while, all of them together: scripts/fuzz.sh [seconds]
#
# Builds the targets of fuzz/ on the pinned toolchain, without cargo-fuzz, and runs each for its share of the time. What they learn is kept in
# target/fuzz/corpus, so the next run goes on from there; what breaks one is in target/fuzz/artifacts, and running the target with that file shows
# it again. libFuzzer comes as source with libfuzzer-sys, so a C++ compiler is needed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly SECONDS_ALL="${1:-60}"
readonly TARGETS=(wal_record wal_segment command snapshot_chunk)
readonly FOLDER="$PWD/target/fuzz"

fail() {
    echo "fuzz: $*" >&2
    exit 1
}

[[ "$SECONDS_ALL" =~ ^[1-9][0-9]*$ ]] || fail "give a number of seconds, not '$SECONDS_ALL'"
command -v "${CXX:-c++}" > /dev/null || fail "there is no C++ compiler (${CXX:-c++}), which libFuzzer needs: install g++ or clang++, or set CXX"

# What cargo-fuzz passes, less the sanitizer of addresses, which needs a nightly compiler; the crate forbids unsafe code.
flags=(
    -C passes=sancov-module
    -C llvm-args=-sanitizer-coverage-level=4
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters
    -C llvm-args=-sanitizer-coverage-pc-table
    -C llvm-args=-sanitizer-coverage-trace-compares
    -C codegen-units=1
    --cfg fuzzing
)
host="$(rustc -vV | sed -n 's/^host: //p')"

# With --target the flags leave build scripts and macros alone, which have no libFuzzer to link.
RUSTFLAGS="${flags[*]}" CARGO_TARGET_DIR="$FOLDER" \
    cargo build --locked --manifest-path fuzz/Cargo.toml --profile fuzz --target "$host" --bins

# One file for each line of hexadecimal digits.
seed_lines() { # target, file
    local number=0 line
    while read -r line; do
        line="${line%%[![:xdigit:]]*}"
        [[ -n "$line" ]] || continue
        printf '%b' "$(sed 's/../\\x&/g' <<< "$line")" > "$FOLDER/corpus/$1/$(basename "$2" .hex)-$((number += 1))"
    done < "$2"
}

for target in "${TARGETS[@]}"; do
    mkdir -p "$FOLDER/corpus/$target" "$FOLDER/artifacts"
done
head -c 64 src/wal/testdata/version-1.wal > "$FOLDER/corpus/wal_record/header"
for from in 65 105 209; do
    tail -c "+$from" src/wal/testdata/version-1.wal | head -c 144 > "$FOLDER/corpus/wal_record/record-$from"
done
cp src/wal/testdata/version-1.wal "$FOLDER/corpus/wal_segment/"
seed_lines command src/shard/testdata/command_v1.hex
seed_lines snapshot_chunk src/shard/testdata/snapshot_v1.hex

share=$((SECONDS_ALL / ${#TARGETS[@]}))
for target in "${TARGETS[@]}"; do
    echo "fuzz: $target for $((share > 0 ? share : 1)) s"
    log="$FOLDER/$target.log"
    if ! "$FOLDER/$host/fuzz/$target" -max_total_time="$((share > 0 ? share : 1))" -max_len=65536 -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="$FOLDER/artifacts/$target-" "$FOLDER/corpus/$target" > "$log" 2>&1; then
        tail -n 40 "$log" >&2
        fail "$target broke; the whole story is in $log"
    fi
    tail -n 1 "$log"
done
