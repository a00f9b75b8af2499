#!/usr/bin/env bash
# Everything a machine with an NVIDIA GPU can tell within minutes: bench/gpu.sh FOLDER [--budget SECONDS] [--parts ...].
# PYTHON names the interpreter (default: python3); bench/gpu.sh --help says what it needs and what comes back.
root=$(cd "$(dirname "$0")/.." && pwd) || exit 70
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "${PYTHON:-python3}" -m bench.gpu "$@"
