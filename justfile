# `just` lists these. `just ci` writes nothing but ./target and is what CI runs.

default:
    @just --list --unsorted

# Does it compile?
check:
    cargo check --workspace --all-targets

# Write all code in one form.
fmt:
    cargo fmt --all

# Everything a machine can object to.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo test --locked --test tidy

# All tests, or those whose name contains a word: just test placement
test *words:
    cargo test --workspace --locked {{ words }}

# The simulation; a seed repeats a run: just sim 42
sim seed="":
    SIM_SEED={{ seed }} cargo test --release --locked --test sim

# Benchmarks with numbers side by side: just bench publish
bench *names:
    cargo bench --locked {{ prepend("--bench ", names) }}

# Eight peers in this terminal, on the ports from 8000.
cluster *flags:
    cargo run --release --locked -- dev {{ flags }}

# Clients that are not ours against eight peers: buf and grpcio, by reflection alone.
clients *binary:
    scripts/clients.sh {{ binary }}

# Every command of the README's tour, compared with what the page shows.
tour *binary:
    scripts/tour.sh {{ binary }}

# Bytes of all kinds into the decoders, for some seconds in all.
fuzz seconds="60":
    scripts/fuzz.sh {{ seconds }}

# Power cuts on a real file system; needs root.
power rounds="4":
    scripts/power.sh {{ rounds }}

# What CI runs.
ci:
    .ci/run
