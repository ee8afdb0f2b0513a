#!/usr/bin/env bash
# tools/torchrun.sh PROCESSES TOOL.py [ARGUMENTS]: runs a tool in several processes a node.
#
# Environment: PORT (of the master; one node finds a free one), and for several nodes NNODES,
# NODE_RANK and MASTER_ADDR.
set -euo pipefail

processes=$1 tool=$2
shift 2
if [ "${NNODES:-1}" -gt 1 ]; then
    where=(--nnodes "$NNODES" --node_rank "${NODE_RANK:?which node is this?}"
        --master_addr "${MASTER_ADDR:?the first node}" --master_port "${PORT:-29500}")
elif [ -n "${PORT:-}" ]; then
    where=(--master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "$PORT")
else
    where=(--standalone)
fi
exec python -m torch.distributed.run "${where[@]}" --nproc_per_node "$processes" \
    "$(dirname "$0")/$tool" "$@" --launcher pytorch
