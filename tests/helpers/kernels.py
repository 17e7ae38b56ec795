"""What the tests of the GPU's kernels share: axes made from matrices, references in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fpn_neck.fast.cuda import available
from fpn_neck.fast.cuda.axis import Axis


def need_kernels():
    """Skip the whole test file where no kernel can run."""
    if not available():
        reason = "no GPU with Triton; tests/fast/cuda/test_interpreter.py runs this file without"
        pytest.skip(reason, allow_module_level=True)


def resizing(size, target, align_corners=False):
    """Torch's bilinear resizing along one axis as a matrix (target, size)."""
    eye = torch.eye(size, dtype=torch.float64)
    return F.interpolate(eye[None], target, mode="linear", align_corners=align_corners)[0].t()


def axis(matrix, taps=None, device="cpu"):
    """The axis of a matrix (outputs, inputs); ``taps`` of each output, or as many as needed.

    A tap without weight stands at the first input with weight.
    """
    used = matrix > 0
    taps = taps or int(used.sum(1).max())
    indices = [row.nonzero().flatten().tolist() for row in used]
    weights = [row[row > 0].tolist() for row in matrix]
    indices = [i + i[:1] * (taps - len(i)) for i in indices]
    weights = [w + [0.0] * (taps - len(w)) for w in weights]
    users = torch.zeros(matrix.shape[1], 2, dtype=torch.int32)
    for cell, column in enumerate(used.t()):
        outputs = column.nonzero().flatten().tolist()
        if outputs:
            users[cell] = torch.tensor((outputs[0], outputs[-1] + 1))
    return Axis(
        torch.tensor(indices, dtype=torch.int32, device=device),
        torch.tensor(weights, dtype=torch.float32, device=device),
        users.to(device),
    )


def resize(x, rows, columns):
    """Logits (N, K, h, w) by two matrices, in float64."""
    return torch.einsum("yh,nkhw,xw->nkyx", rows, x.double().cpu(), columns)


def class_sums(x, target, ignore_index):
    """What `loss_sums` promises, by torch's operators, from logits (N, K, H, W)."""
    valid = target != ignore_index
    labels = target.where(valid, 0)
    log_p = x.log_softmax(1)
    hit = F.one_hot(labels, x.shape[1]).movedim(-1, 1) * valid.unsqueeze(1)
    correct = x.argmax(1, keepdim=True) == labels.unsqueeze(1)
    rows = (1, log_p, log_p.exp(), correct)
    sums = [(hit * row).sum((0, 2, 3)).double() for row in rows]
    sums += [(row * valid.unsqueeze(1)).sum((0, 2, 3)) for row in (log_p.exp(), log_p)]
    return torch.stack(sums)
