#!/usr/bin/env bash
# tools/dist_train.sh CONFIG PROCESSES [ARGUMENTS OF train.py]; see torchrun.py for PORT, RESTARTS ...
set -euo pipefail
[[ ${1:-} != --help ]] || exec sed -n "2,/^set/s/^# *//p" "$0"

config=${1:?a config} processes=${2:?how many GPUs, or CPU processes}
shift 2
exec python "$(dirname "$0")/torchrun.py" "$processes" train.py "$config" "$@"
