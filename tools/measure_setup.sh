#!/usr/bin/env bash
# Seconds from git clone to the end of the first training step of the demo, on this machine.
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
since() { echo "$1: $(($(date +%s) - start)) s"; }
start=$(date +%s)
git clone --quiet "$repo" "$folder/fpn_neck"
cd "$folder/fpn_neck"
make --silent .venv/installed
since "clone and install"
.venv/bin/python tools/make_shapes.py data/shapes
since "data"
.venv/bin/python tools/train.py configs/segmentation/fpn_lite0_demo_shapes-256x320.py \
  --cfg-options train_cfg.max_iters=1 train_cfg.val_interval=2 > train.log 2>&1
since "first training step"
