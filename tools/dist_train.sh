#!/bin/sh
# Train with N processes on this machine, each with a GPU of its own, or all on its CPU:
#   tools/dist_train.sh CONFIG N [arguments of tools/train.py]
# On several machines the same line on each, with NODE_RANK=0, 1, ... (docs/distributed.md):
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=<first machine> [PORT=29500] tools/dist_train.sh CONFIG N ...
set -eu
if [ $# -lt 2 ]; then
  echo "usage: tools/dist_train.sh CONFIG N [arguments of tools/train.py]" >&2
  exit 2
fi
config=$1 processes=$2
shift 2
meeting=--standalone # a free port
if [ "${NNODES:-1}" != 1 ]; then
  meeting="--nnodes=$NNODES --node-rank=$NODE_RANK --master-addr=$MASTER_ADDR"
  meeting="$meeting --master-port=${PORT:-29500}"
fi
# shellcheck disable=SC2086
exec "${PYTHON:-python}" -m torch.distributed.run --nproc-per-node="$processes" $meeting \
  "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
