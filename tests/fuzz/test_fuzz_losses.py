"""CrossEntropyLoss, DiceLoss and label_map: the plain formula's numbers, or a named refusal."""

import pytest
import torch
import torch.nn.functional as F
from helpers.fuzzing import REFUSED, RIGHT, junk, refusal_of
from helpers.references import class_logits
from hypothesis import strategies as st

from fpn_neck import CrossEntropyLoss, DiceLoss
from fpn_neck.strips.label_map import label_map

TOLERANCE = 1e-4  # of losses and logits of order 1, in float32


def weights_of(args, k):
    weights = [1.0] * k if args["class_weight"] is None else args["class_weight"]
    return torch.as_tensor(weights, dtype=torch.float64)


def cross_entropy(args, logits, target, weight):
    """The mean of ``-w_t log p_t`` over the labelled pixels, pixel by pixel."""
    logits = class_logits(logits)
    w = weights_of(args, logits.shape[1])
    total = count = 0.0
    for n, y, x in (target != args["ignore_index"]).nonzero().tolist():
        t = target[n, y, x]
        factor = w[t] * (1 if weight is None else weight[n, y, x])
        total += factor * -logits[n, :, y, x].double().log_softmax(0)[t]
        count += factor
    count = count if args["avg_non_ignore"] else target.numel()
    return args["loss_weight"] * total / count if count else 0.0


def dice(args, logits, target, weight):
    """Milletari's Dice, class by class."""
    logits = class_logits(logits)
    k = logits.shape[1]
    w = weights_of(args, k)
    p = logits.double().softmax(1)
    pixels = (target != args["ignore_index"]).double() * (1 if weight is None else weight)
    total = count = 0.0
    for c in range(k):
        t = (target == c) * pixels
        if not args["absent_classes"] and t.sum() == 0:
            continue
        above = 2 * (p[:, c] * t).sum() + float(args["eps"])
        below = (p[:, c] * pixels).sum() + t.sum() + float(args["eps"])
        total, count = total + w[c] * (1 - above / below), count + w[c]
    return args["loss_weight"] * total / count if count else 0.0


LOSSES = {CrossEntropyLoss: cross_entropy, DiceLoss: dice}


@st.composite
def loss_cases(draw):
    """(loss, arguments, wrong arguments, logits, target, weight, what of these is wrong)"""
    loss = draw(st.sampled_from(sorted(LOSSES, key=str)))
    weights = st.just(0.0) | st.floats(1e-3, 3)  # they are kept in float32
    k, n = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    classes = max(2, k)  # two for one logit
    args = {
        "class_weight": draw(st.none() | st.lists(weights, min_size=classes, max_size=classes)),
        "ignore_index": draw(st.sampled_from([255, -1, 0])),
        "loss_weight": draw(st.floats(0, 2)),
        "loss_name": "loss_of_mine",
    }
    if loss is DiceLoss:
        args |= {"absent_classes": draw(st.booleans()), "eps": draw(st.floats(1e-3, 1))}
    else:
        args |= {"avg_non_ignore": draw(st.booleans())}
    names = draw(st.sets(st.sampled_from(sorted(args)), max_size=1)) if draw(st.booleans()) else ()
    args |= {name: draw(junk) for name in names}
    size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    maps = {
        "logits": torch.randn(n, k, *size),
        "target": torch.randint(0, classes, (n, *size)),
        "weight": draw(st.sampled_from([None, torch.rand(n, *size)])),
    }
    ignored = args["ignore_index"] if type(args["ignore_index"]) is int else 255
    ignored = ignored if abs(ignored) < 2**31 else 255
    maps["target"][torch.rand(maps["target"].shape) < draw(st.sampled_from([0, 0.3, 1]))] = ignored
    kind = draw(st.sampled_from(["", "", *maps]))
    if kind:
        x = maps[kind] if maps[kind] is not None else torch.rand(n, *size)
        others = [x[None], x.flatten(), torch.cat([x, x]), x.to(torch.complex64)]
        others += [x.tolist()] if kind == "weight" else [x[:0], "x", x.bool()]
        others += [torch.full_like(x, 77)] if kind == "target" else [3, {}]
        maps[kind] = draw(st.sampled_from(others))
    return loss, args, set(names), maps, kind


def check_loss(case):
    loss, args, names, maps, wrong_map = case
    blamed = names | ({"target", "weight", "logits"} if wrong_map else set())
    # A list of another length is seen at the first batch only.
    with refusal_of(blamed) as refused:
        value = loss(**args)(**maps)
        assert not wrong_map, f"{wrong_map} was taken"
    if refused:
        return REFUSED
    expected = torch.as_tensor(LOSSES[loss](args, **maps), dtype=torch.float32)
    torch.testing.assert_close(value, expected, atol=TOLERANCE, rtol=TOLERANCE)
    return RIGHT


@pytest.mark.parametrize("examples", [250, pytest.param(5_000, marks=pytest.mark.slow)])
def test_losses_are_right_or_name_what_is_wrong(fuzz, examples):
    fuzz(examples, loss_cases(), check_loss)


@st.composite
def label_map_cases(draw):
    n, k = draw(st.sampled_from([1, 2, 0])), draw(st.integers(1, 6))
    whole = st.integers(1, 12)
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    args = {
        "logits": torch.randn(n, k, draw(whole), draw(whole)).to(dtype),
        "size": (draw(whole | st.just(90)), draw(whole | st.just(70))),
        "align_corners": draw(st.booleans()),
    }
    kind = draw(st.sampled_from(["", "", *args]))
    if kind == "logits":
        x = args["logits"]
        others = [x[None], x.flatten(), x[:, :0], x[..., :0], x.long(), x.tolist()]
        args[kind] = draw(junk | st.sampled_from(others))
    elif kind == "size":
        args[kind] = draw(junk | st.tuples(junk, junk) | st.sampled_from([(3,), (3, 4, 5), (0, 3)]))
    elif kind:
        args[kind] = draw(junk)
    return args, kind


def check_label_map(case):
    args, kind = case
    with refusal_of({kind} if kind else set()) as refused:
        labels = label_map(**args)
    if refused:
        return REFUSED
    logits, (height, width), corners = args["logits"], args["size"], args["align_corners"]
    assert labels.shape == (len(logits), height, width) and labels.dtype == torch.int64
    wide = logits.float() if logits.dtype.itemsize < 4 else logits
    if len(logits):
        wide = F.interpolate(wide, (height, width), mode="bilinear", align_corners=corners)
        wide = class_logits(wide)
        chosen = wide.gather(1, labels[:, None]).squeeze(1)
        torch.testing.assert_close(chosen, wide.amax(1), atol=TOLERANCE, rtol=0)  # ties
    return RIGHT


@pytest.mark.parametrize("examples", [250, pytest.param(5_000, marks=pytest.mark.slow)])
def test_label_map_is_right_or_names_what_is_wrong(fuzz, examples):
    fuzz(examples, label_map_cases(), check_label_map)
