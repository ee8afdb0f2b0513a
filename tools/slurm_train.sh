#!/usr/bin/env bash
# tools/slurm_train.sh PARTITION JOB_NAME CONFIG [ARGUMENTS OF train.py]
#
# Environment: GPUS (all, 4), GPUS_PER_NODE (4, or GPUS if less), CPUS_PER_TASK (8), PORT, SRUN_ARGS.
# With SRUN_ARGS="--time 24:00:00 --signal USR1@120" it saves and ends two minutes before its time is
# up.
set -euo pipefail
[[ ${1:-} != --help ]] || exec sed -n "2,/^set/s/^# *//p" "$0"

partition=${1:?a partition} job=${2:?a job name} config=${3:?a config}
shift 3
gpus=${GPUS:-4}
per_node=${GPUS_PER_NODE:-$((gpus < 4 ? gpus : 4))}
export MASTER_PORT=${PORT:-${MASTER_PORT:-$((20000 + RANDOM % 10000))}} # another job may be there
# shellcheck disable=SC2086
exec srun --partition "$partition" --job-name "$job" --gres "gpu:$per_node" --ntasks "$gpus" \
    --ntasks-per-node "$per_node" --cpus-per-task "${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} python -u "$(dirname "$0")/train.py" "$config" --launcher slurm "$@"
