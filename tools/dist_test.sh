#!/usr/bin/env bash
# tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [ARGUMENTS OF test.py]; see torchrun.py for PORT ...
set -euo pipefail
[[ ${1:-} != --help ]] || exec sed -n "2,/^set/s/^# *//p" "$0"

config=${1:?a config} checkpoint=${2:?a checkpoint} processes=${3:?how many GPUs, or CPU processes}
shift 3
exec python "$(dirname "$0")/torchrun.py" "$processes" test.py "$config" "$checkpoint" "$@"
