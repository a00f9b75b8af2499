#!/usr/bin/env bash
# Everything a machine with an NVIDIA GPU can tell in under eight minutes, without a network: build, tests on the GPU,
# compute-sanitizer, a profile, the benchmark.
#
#   bench/gpu.sh FOLDER [PYTHON [PART...]]
#
# PARTS: tests bench memcheck racecheck studies profile bench-compiled (default: all, in this order; the last, the
# benchmark with torch.compile among the peers, gets the time that is left).
# PYTHON (default: python3) needs torch with CUDA, pytest, hypothesis, pybind11, cmake and ninja; nvcc must be found.
# FOLDER receives a log per part, results.csv, results.json and pictures of each run of the benchmark, and
# summary.txt. A part that fails or runs out of its time does not stop the next, and keeps what it has written; the
# exit code is the number of failed parts.
set -u

if [ $# -lt 1 ]; then
  sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
  exit 64
fi
mkdir -p "$1" || exit 73
out=$(cd "$1" && pwd)
python=${2:-python3}
parts=" ${*:3} "
cd "$(dirname "$0")/.." || exit 70
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
: >"$out/summary.txt"
failed=0
budget=465 # seconds for everything

say() { printf '%s\n' "$*" | tee -a "$out/summary.txt"; }

wanted() { [[ $parts == "  " || $parts == *" $1 "* ]]; }

# part NAME SECONDS COMMAND...: its output goes to NAME.log, its exit code and time to the summary.
part() {
  wanted "$1" || return 0
  run "$@"
}

run() {
  local name=$1 limit=$2 left=$((budget - SECONDS)) begin=$SECONDS code
  shift 2
  if [ "$left" -lt 5 ]; then
    skip "$name" "no time left"
    return 1
  fi
  [ "$limit" -le "$left" ] || limit=$left
  timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1
  code=$?
  case $code in
    0) say "ok       $name ($((SECONDS - begin)) s): $(tail -n 1 "$out/$name.log" | cut -c 1-150)" ;;
    124 | 137) say "TIMEOUT  $name after $limit s" ;;
    *) say "FAILED   $name (exit code $code, $((SECONDS - begin)) s): $(tail -n 1 "$out/$name.log" | cut -c 1-150)" ;;
  esac
  [ "$code" -eq 0 ] || failed=$((failed + 1))
  return "$code"
}

skip() { say "skipped  $1: $2"; }

find_tool() {
  command -v "$1" || ls "/usr/local/cuda/bin/$1" 2>/dev/null
}

arch=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())' 2>"$out/device.log")
if [ -z "$arch" ]; then
  say "FAILED   device: $(tail -n 1 "$out/device.log")"
  exit 1
fi
say "device: $("$python" -c 'import torch; print(torch.cuda.get_device_name(), "torch", torch.__version__)'), sm_$arch"

[ ! -d .git ] || say "commit: $(git rev-parse --short HEAD 2>/dev/null), $(git status --porcelain | wc -l) files changed"

# Only this GPU's architecture: the others cost build time and run nowhere here. Installed apart from the checkout, and
# the checkout is kept off the import path, so that what is tested is what was built.
run build 120 env PROMPTKERNELS_BUILD=cuda PROMPTKERNELS_CUDA_ARCHS="$arch-real" "$python" -m pip install \
  --quiet --no-build-isolation --no-deps --no-index --disable-pip-version-check --target "$site" .
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
run backends 30 "$python" -m promptkernels
cat "$out/backends.log"
if ! "$python" -c 'import promptkernels as pk, sys; sys.exit(not pk.backends()["cuda"].available)'; then
  say "FAILED   the cuda backend is not available; what follows runs on what is left"
  failed=$((failed + 1))
fi

# "cuda" is in the id of whatever runs on GPU tensors; emulated kernels run on the CPU.
pytest=("$python" -m pytest -q -p no:cacheprovider)
part tests 90 "${pytest[@]}" -k "cuda and not emulated" tests/ops --ignore tests/ops/test_bench.py

bench=("$python" -m promptkernels bench --device cuda)
part bench 100 "${bench[@]}" --seconds 0.4 --no-compile --parts cases --output "$out/bench"

# torch's caching allocator would hide overruns that stay within its blocks.
sanitizer=$(find_tool compute-sanitizer)
for tool in memcheck racecheck; do
  if ! wanted "$tool"; then
    continue
  elif [ -n "$sanitizer" ]; then
    part "$tool" 50 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" --error-exitcode 99 \
      "${pytest[@]}" -m "not large and not slow" -k "cuda and not emulated and not triton and not reference" \
      tests/ops/test_oracle.py tests/ops/test_autograd.py
  else
    skip "$tool" "no compute-sanitizer"
  fi
done

part studies 40 "${bench[@]}" --seconds 0.3 --parts sweep spread step --output "$out/bench-studies"

profiler=$(find_tool ncu)
if [ -n "$profiler" ]; then
  part profile 30 "$profiler" --clock-control none --launch-count 12 --section SpeedOfLight --section LaunchStats \
    --kernel-name-base demangled --csv --log-file "$out/profile.csv" "$python" - <<'PYTHON'
import torch

import promptkernels as pk

with pk.use_backend("cuda"):
    x = torch.randn(32, 512, 4096, device="cuda")
    start = torch.randn(512, 4096, device="cuda")
    u, v = torch.randn(8, 512, 4, device="cuda"), torch.randn(8, 4, 4096, device="cuda")
    ids = torch.arange(32, device="cuda") % 8
    pk.task_similarity(x, start)
    pk.svgd_direction(x, x)
    pk.merge_task_vectors(start, x)
    pk.compose_prompts(start, u, v, ids)
    pk.prepend_prompts(start, u, v, ids, x)
    torch.cuda.synchronize()
PYTHON
elif wanted profile; then
  skip profile "no ncu"
fi

part bench-compiled "$budget" "${bench[@]}" --seconds 0.4 --parts cases --output "$out/bench-compiled"

say "$failed part(s) failed; $SECONDS s in all"
exit "$failed"
