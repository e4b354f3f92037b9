#!/usr/bin/env bash
# All that only a GPU can tell, in eight minutes on one H100 or H200.
#
#     tests/gpu_check.sh [--dry] [FOLDER]     FOLDER: $OUT, or else build/gpu_check
#
# Nothing need be installed but torch, triton, numpy, safetensors and pytest with hypothesis;
# what needs more is skipped and says so. Results are written as they come, each part under a limit
# of its own. --dry tells what would be run here, and runs nothing.
# Exit code: the sum of what failed (1 tests, 2 measure, 4 captured, 8 validate, 16 kernels);
# 32 if nothing could be run; 64 if the command is wrong.
set -uo pipefail

usage() {
    sed -n '4s/^# *//p' "$0" >&2
    exit 64
}

dry=false folder=
for word in "$@"; do
    case $word in
        --dry) dry=true ;;
        -*) usage ;;
        *) if [ -n "$folder" ]; then usage; else folder=$word; fi ;;
    esac
done
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
folder=${folder:-${OUT:-$here/build/gpu_check}}
mkdir -p "$folder" || exit 64
folder=$(cd "$folder" && pwd)
summary=$folder/summary.txt
cd "$here" || exit 64

# The checkout is the package, whatever its folder is called.
path=$(mktemp -d)
trap 'rm -rf "$path"' EXIT
ln -s "$here" "$path/dflash_sim"
export PYTHONPATH="$path${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 # what else is installed there is none of ours

has() { # which of these modules are missing
    "$python" - "$@" <<'END'
import importlib.util, sys
print(" ".join(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
END
}

whole_s=480 least_s=5 code=0 ran=0 began=$SECONDS
say() { printf '%s\n' "$*" | tee -a "$summary"; }

# part NAME BIT LIMIT_S FILE "MODULES" COMMAND...
part() {
    local name=$1 bit=$2 limit=$3 file=$4 modules=$5 missing why= left rc
    shift 5
    missing=$(has $modules)
    if [ -n "$missing" ]; then
        why="not installed: $missing"
    elif ! $cuda; then
        why="no CUDA device"
    fi
    if $dry; then
        say "$(printf '%-14s at most %3s s: %s' "$name" "$limit" "$*")"
        [ -z "$why" ] || say "$(printf '%-14s skipped here: %s' '' "$why")"
        return
    fi
    if [ -n "$why" ]; then
        say "$(printf '%-14s skipped: %s' "$name" "$why")"
        return
    fi
    left=$((whole_s - (SECONDS - began)))
    [ "$left" -lt "$limit" ] && limit=$left
    if [ "$limit" -lt "$least_s" ]; then
        say "$(printf '%-14s NOT RUN: no time is left' "$name")"
        code=$((code | bit))
        return
    fi
    local start=$SECONDS
    timeout --signal=INT --kill-after=5 "$limit" "$@" >>"$folder/$file" 2>&1
    rc=$?
    ran=$((ran + 1))
    local took=$((SECONDS - start)) last
    last=$(grep -v '^ *$' "$folder/$file" 2>/dev/null | tail -n 1 | cut -c 1-160)
    case $rc in
        0) say "$(printf '%-14s passed in %s s: %s' "$name" "$took" "$last")" ;;
        124 | 137) say "$(printf '%-14s CUT SHORT after %s s: %s' "$name" "$took" "$last")" ;;
        *) say "$(printf '%-14s FAILED (%s) in %s s: %s' "$name" "$rc" "$took" "$last")" ;;
    esac
    [ "$rc" = 0 ] || code=$((code | bit))
}

rm -f "$folder"/{machine,summary}.txt "$folder"/{tests,measure,captured,validate,kernels}.log
timeout --kill-after=5 60 "$python" tests/gpu_parts.py machine >"$folder/machine.txt" 2>&1
cuda=false
grep -q '^cuda: yes' "$folder/machine.txt" && cuda=true
say "dflash-sim on a GPU, $(date -u '+%Y-%m-%d %H:%M') UTC: $(grep '^device: ' "$folder/machine.txt" || tail -n 1 "$folder/machine.txt")"

plain=(-o addopts= --import-mode=importlib -p no:cacheprovider -ra)
several=()
[ -z "$(has xdist)" ] && several=(-p xdist -n 6 --dist worksteal)
# The kernels' and the engine's own tests; the measurement's comes as a part of its own.
part tests 1 125 tests.log "torch triton safetensors pytest hypothesis" \
    "$python" -m pytest "${plain[@]}" "${several[@]}" -m "gpu and not bench" \
    tests/kernels/triton tests/kernels/models/test_triton.py tests/realrun/worker/test_gpu.py
part measure 2 90 measure.log "torch triton safetensors" \
    "$python" tests/gpu_parts.py measure --model qwen3-8b -o "$folder/measure.profile"
part captured-8b 4 50 captured.log "torch triton safetensors" \
    "$python" tests/gpu_parts.py captured --model qwen3-8b --layers 12 --accept-length 6.5
part captured-35b 4 60 captured.log "torch triton safetensors" \
    "$python" tests/gpu_parts.py captured --model qwen3.5-35b-a3b --layers 12 --accept-length 6.5
part validate 8 80 validate.log "torch triton safetensors typer rich yaml simpy pydantic" \
    "$python" -m dflash_sim validate --real --device cuda --model qwen3-8b --accept-length 6.5 \
    --blocks 16 --concs 1,8 --modes v2 --rounds 1 --num-prompts 32 --max-new-tokens 48
# Attention has by far the most shapes, and shall not use up the others' time.
part kernels 16 35 kernels.log "torch triton safetensors pytest hypothesis" \
    "$python" -m pytest "${plain[@]}" -m "gpu and bench" -k "not attention" \
    -s tests/bench/test_gpu_kernels.py
part attention 16 35 kernels.log "torch triton safetensors pytest hypothesis" \
    "$python" -m pytest "${plain[@]}" -m "gpu and bench" -k attention \
    -s tests/bench/test_gpu_kernels.py

if $dry; then
    exit 0
fi
[ "$ran" = 0 ] && code=32
say "exit code $code after $((SECONDS - began)) s; send us the folder $folder"
exit "$code"
