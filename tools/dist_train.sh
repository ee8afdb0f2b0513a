#!/usr/bin/env bash
# tools/dist_train.sh CONFIG PROCESSES [ARGUMENTS OF train.py]; see torchrun.sh for PORT, NNODES ...
set -euo pipefail

config=${1:?a config} processes=${2:?how many GPUs, or CPU processes}
shift 2
exec bash "$(dirname "$0")/torchrun.sh" "$processes" train.py "$config" "$@"
