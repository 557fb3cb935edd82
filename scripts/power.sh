#!/usr/bin/env bash
# Cuts the power under log and store on a real file system: scripts/power.sh [rounds]
#
# ext4 on a loop device is shut down without flushing (EXT4_IOC_SHUTDOWN) while tests/power writes, mounted again, and read. All that was
# acknowledged has to be there. The control, without fdatasync, has to lose, or the test would prove nothing. Needs root and loop devices; where
# there are none it says so and passes. It leaves nothing behind, however it ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly ROUNDS="${1:-4}"
readonly CONTROL_ROUNDS_MAX=5
# A round that takes longer hangs.
readonly TIMEOUT=120

fail() {
    echo "power: $*" >&2
    exit 1
}

skip() {
    echo "power: skipped: $*"
    exit 0
}

[[ "$(uname)" == Linux ]] || skip "only Linux has EXT4_IOC_SHUTDOWN"
[[ "$(id -u)" == 0 ]] || skip "only root may mount"
for tool in mkfs.ext4 mount umount losetup python3 timeout; do
    command -v "$tool" > /dev/null || skip "there is no $tool"
done

folder="$(mktemp -d "${TMPDIR:-/tmp}/cubecast-power.XXXXXX")"
mountpoint="$folder/mounted"
image="$folder/image"
device=""
writer=""

clean_up() {
    [[ -z "$writer" ]] || kill -9 "$writer" 2> /dev/null || true
    umount "$mountpoint" 2> /dev/null || umount -l "$mountpoint" 2> /dev/null || true
    [[ -z "$device" ]] || losetup -d "$device" 2> /dev/null || true
    rm -rf "$folder"
}
trap clean_up EXIT

mkdir "$mountpoint"
truncate -s 512M "$image"
mkfs.ext4 -q -F "$image" || skip "mkfs.ext4 does not work here"
device="$(losetup -f --show "$image" 2> "$folder/why")" || skip "no loop device: $(< "$folder/why")"
mount "$device" "$mountpoint" 2> "$folder/why" || skip "nothing can be mounted: $(< "$folder/why")"

cargo test --locked --test power --no-run --message-format=json 2> "$folder/build" > "$folder/artifacts" || {
    cat "$folder/build" >&2
    fail "tests/power does not build"
}
binary="$(sed -n 's/.*"name":"power".*"executable":"\([^"]*\)".*/\1/p' "$folder/artifacts" | tail -n 1)"
[[ -x "$binary" ]] || fail "cargo did not say where tests/power is"

task() { # what, folder: runs tests/power
    CUBECAST_POWER="$1" CUBECAST_POWER_FOLDER="$2" timeout "$TIMEOUT" "$binary" --nocapture
}

# Cuts the power and prints the last entry acknowledged before. A sync that runs while the ioctl does may return success for blocks that ext4 then
# cannot convert any more, which no real power cut lets anybody see; so only what was said before it began counts.
cut_power() { # what the writer says
    python3 - "$mountpoint" "$1" << 'PYTHON'
import fcntl, os, re, struct, sys

EXT4_IOC_SHUTDOWN = 0x8004587D
WITHOUT_FLUSHING_THE_JOURNAL = 2
mounted = os.open(sys.argv[1], os.O_RDONLY)
with open(sys.argv[2], encoding="utf-8") as said:
    acknowledged = re.findall(r"^acknowledged (\d+)\n", said.read(), re.MULTILINE)
fcntl.ioctl(mounted, EXT4_IOC_SHUTDOWN, struct.pack("I", WITHOUT_FLUSHING_THE_JOURNAL))
print(acknowledged[-1] if acknowledged else -1)
PYTHON
}

# Lets a writer write, cuts the power, and looks. Sets `acknowledged` and `found`, which is empty when the log is refused.
round() { # what, folder, acknowledgements
    local output="$folder/output"
    task "$1" "$2" > "$output" 2>&1 &
    writer=$!
    local begun=$SECONDS
    while (( $(grep -c '^acknowledged ' "$output" || true) < $3 )); do
        kill -0 "$writer" 2> /dev/null || { cat "$output" >&2; fail "the writer ended by itself"; }
        (( SECONDS - begun < TIMEOUT )) || fail "the writer hangs"
        sleep 0.02
    done
    acknowledged="$(cut_power "$output")"
    # The writer ends when it learns that its disk is gone.
    wait "$writer" || true
    writer=""
    umount "$mountpoint"
    mount "$device" "$mountpoint"
    task check "$2" > "$output" 2>&1 || { cat "$output" >&2; [[ "$1" == careless ]] || fail "what is found is wrong"; }
    found="$(sed -n 's/^found \([0-9]*\)$/\1/p' "$output")"
    [[ -n "$found" || "$1" == careless ]] || { cat "$output" >&2; fail "the log or the store is refused"; }
}

# The first cut shows whether the file system knows how.
probe() {
    cut_power /dev/null > "$folder/why" 2>&1 || skip "the file system cannot be shut down: $(tail -n 1 "$folder/why")"
    umount "$mountpoint"
    mount "$device" "$mountpoint"
}
probe

total=0
for number in $(seq "$ROUNDS"); do
    round write "$mountpoint/kept" $((200 + RANDOM % 1500))
    (( found > acknowledged )) || fail "round $number: acknowledged up to $acknowledged, but only $found entries are there"
    total=$acknowledged
    echo "power: round $number: acknowledged up to entry $acknowledged, found $found entries, none lost"
done

for number in $(seq "$CONTROL_ROUNDS_MAX"); do
    round careless "$mountpoint/careless-$number" $((200 + RANDOM % 800))
    lost=$((acknowledged + 1 - ${found:-0}))
    if (( lost > 0 )); then
        echo "power: control without fdatasync: $lost of $((acknowledged + 1)) acknowledged entries lost or refused, as it must be"
        echo "power: $ROUNDS cuts, $((total + 1)) acknowledged entries, 0 lost"
        exit 0
    fi
done
fail "the control without fdatasync lost nothing, so this proves nothing"
