"""One small model of every family of timm in ``TimmBackbone``: do its maps lie where they should?

A family is the first word of a name ('resnext') in a module of timm ('resnet').
``python tests/helpers/timm_families.py > docs/timm-families.md`` writes the table in the docs, in
about half an hour. ``python tests/helpers/timm_families.py NAMES`` examines some.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from subprocess import PIPE
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fpn_neck.models.timm_backbone import TimmBackbone
from helpers.project import PROJECT

SIZES = ((323, 389), (97, 61), (33, 200))  # px, no multiples of a stride
PAIRS, DOT = 5, 16  # pairs of dots, side in px
WORD = re.compile(r"(?:tf_|legacy_|gluon_|ssl_|swsl_|ens_|adv_|tv_|jx_|dm_|ig_)?([a-z]+)")
HEAD = """# timm's families as backbones

What `TimmBackbone` makes of one model of every family that timm {version} has: the one with the
fewest parameters, without pretrained weights. Written by

```text
python tests/helpers/timm_families.py > docs/timm-families.md
```

and checked by `tests/models/test_timm_families.py` (slow). A family is the first word of a name in
a module of timm. {built} of {all} are built, and the others are refused by the constructor, with
the reason below.

- "padded to 32": images are padded to multiples of 32 px, and the maps are cropped. Without it, the
  model takes every size as it is. Every map has `ceil(H / stride)` x `ceil(W / stride)` cells for
  images of 323x389, 97x61 and 33x200 px.
- "off": a dot of 16 px is seen that far from its place, in cells of the map, finest map first. The
  weights are random. A cell is seen half a cell away if the model's convolutions of stride 2 are
  centred on a pixel, as ResNet's are: 0.5 is the right value for them. A net that adds coarse maps
  to fine ones may be half a cell of the coarsest map off (HRNet), and kernels of even size move a
  map, too (CPUBone). The test allows 1.5 cells, or 16 px.

| module | family | model | result |
| --- | --- | --- | --- |
"""


def families() -> dict[tuple[str, str], list[str]]:
    """(module, first word) -> names of timm's models; its own test models are left out."""
    found: dict[tuple[str, str], list[str]] = {}
    for module in timm.list_modules():
        for name in sorted(timm.list_models(module=module)):
            word = WORD.match(name)
            if word and not name.startswith("test_"):
                found.setdefault((module, word[1]), []).append(name)
    return found


def smallest(names: list[str]) -> str:
    """The name of the model with the fewest parameters."""

    def parameters(name: str) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())

    return min(names, key=parameters)


# ------------------------------------------------------------------------------------- one model


def examine(name: str) -> dict[str, Any]:
    """What ``TimmBackbone`` makes of a model: ``refused``, or ``strides`` and what was measured.

    ``wrong_sizes`` are the sizes of images whose maps have other sizes than they should.
    ``off`` says for every map how far dots are seen from their places, in cells.
    """
    torch.manual_seed(0)
    try:
        backbone = TimmBackbone(name)
    except ValueError as e:
        return {"refused": str(e)}
    m = backbone.multiple  # else the middle of the padded image is not that of the image
    whole = [max(m, n // m * m) for n in SIZES[0]]
    shake(backbone, whole)
    return {
        "strides": backbone.strides,
        "multiple": backbone.multiple,
        "wrong_sizes": [size for size in SIZES if not has_its_sizes(backbone, size)],
        "off": offsets(backbone, whole),
    }


@torch.no_grad()
def shake(backbone: TimmBackbone, size: Sequence[int]) -> None:
    """Random weights without the zeros of an initialization, which would hide whole branches.

    Batch norms get the statistics of images of ``size``. From padded images they get too small a
    variance: later maps then grow without bound, and sigmoids that are all 0 give NaN.
    """
    for name, p in backbone.named_parameters():
        if name.endswith("bias"):
            p.normal_(0, 0.1)
        elif p.squeeze().dim() <= 1:  # scales of norms and of branches
            p.normal_(1, 0.2)
        elif not p.any():
            p.normal_(0, 0.02)
    for m in backbone.modules():
        if isinstance(m, _BatchNorm):
            m.momentum = 1.0
    backbone.train()
    backbone(torch.randn(2, backbone.in_channels, *size))
    backbone.eval()


@torch.no_grad()
def has_its_sizes(backbone: TimmBackbone, size: tuple[int, int]) -> bool:
    maps = backbone(torch.randn(1, backbone.in_channels, *size))
    wanted = [tuple(math.ceil(n / s) for n in size) for s in backbone.strides]
    return [tuple(m.shape[-2:]) for m in maps] == wanted


@torch.no_grad()
def offsets(backbone: TimmBackbone, size: Sequence[int]) -> list[float]:
    """The mean distance between where dots are seen and where they are, along the worse axis.

    A dot is seen at the centre of the cells that it changes, weighted by the square of the change;
    those of attention over the whole map, below 5 % of the largest, are left out. Windows pull the
    centre to their middle; the mean of many pairs of dots that mirror each other is free of that.
    """
    image = torch.randn(1, backbone.in_channels, *size)
    before = backbone(image)
    room = torch.tensor(size) - DOT
    corners = ((0.25 + 0.5 * torch.rand(PAIRS, 2)) * room).int()
    seen = torch.zeros(len(backbone.strides), 2, dtype=torch.float64)
    for y, x in torch.cat([corners, room - corners]).tolist():
        dotted = image.clone()
        dotted[..., y : y + DOT, x : x + DOT] = 2 * torch.randn(DOT, DOT)
        for i, (a, b, s) in enumerate(zip(before, backbone(dotted), backbone.strides, strict=True)):
            place = torch.tensor([y + DOT / 2, x + DOT / 2], dtype=torch.float64) / s
            change = (a - b).square().sum(1)[0].double()
            seen[i] += centre(change.where(change > 0.05 * change.max(), 0.0)) - place
    return [round(float(row.abs().max()) / (2 * PAIRS), 2) for row in seen]


def centre(weights: Tensor) -> Tensor:
    """(y, x) in cells from the corner; the first cell's own centre is at 0.5."""
    h, w = weights.shape
    y = (weights.sum(1) * (torch.arange(h) + 0.5)).sum()
    x = (weights.sum(0) * (torch.arange(w) + 0.5)).sum()
    return torch.stack([y, x]) / weights.sum()


# ----------------------------------------------------------------------------------- all of them


def examine_elsewhere(names: list[str]) -> Iterator[dict[str, Any]]:
    """`examine` in another process; a fault inside of torch gives ``failed``, the next starts."""
    paths = [str(PROJECT), str(PROJECT / "tests")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", __file__]
    while names:
        run = subprocess.Popen([*command, *names], env=environment, stdout=PIPE, text=True)
        for line in run.stdout or ():
            yield json.loads(line)
            names = names[1:]
        if run.wait():
            yield {"failed": f"exit code {run.returncode}"}
            names = names[1:]


def result(found: dict[str, Any]) -> str:
    """As the table shows it."""
    if "failed" in found:
        return f"FAILED: {found['failed']}"
    if "refused" in found:
        reason = found["refused"].split("; ")[0].split("' ", 1)[-1]
        return f"refused: {reason}".replace("|", "/")
    padded = f", padded to {found['multiple']}" if found["multiple"] > 1 else ""
    strides, off = (", ".join(map(str, found[key])) for key in ("strides", "off"))
    wrong = f", WRONG SIZES for {found['wrong_sizes']}" if found["wrong_sizes"] else ""
    return f"strides {strides}{padded}; off {off}{wrong}"


def write_table() -> None:
    models = {family: smallest(names) for family, names in families().items()}
    rows = []
    for family, found in zip(models, examine_elsewhere([*models.values()]), strict=True):
        rows.append((*family, f"`{models[family]}`", result(found)))
        print(*rows[-1], file=sys.stderr, flush=True)
    built = sum(row[-1].startswith("strides") for row in rows)
    print(HEAD.format(version=timm.__version__, built=built, all=len(rows)), end="")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        write_table()
    for name in sys.argv[1:]:
        print(json.dumps(examine(name)), flush=True)
