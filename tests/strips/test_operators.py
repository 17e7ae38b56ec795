"""The operators of losses and label maps: gradients, torch's own checks, compiled and exported."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from fpn_neck.strips.full_size_loss import full_size_losses
from fpn_neck.strips.label_map import label_map, label_map_operator
from fpn_neck.strips.labels import checked_labels
from fpn_neck.strips.losses import CrossEntropyLoss, DiceLoss, PixelAccuracy
from fpn_neck.strips.operators import class_sums

K, IGNORE = 5, 255
READS = ["log_p", "log_p p all_p", "all_log_p correct", "all_log_p all_p p log_p"]
LOSSES = [CrossEntropyLoss([1, 2, 0, 1, 3], label_smoothing=0.1), DiceLoss(), PixelAccuracy()]


def batch(size=(7, 6), target=(19, 22), n=2, dtype=torch.float32):
    logits = torch.randn(n, K, *size, dtype=dtype, requires_grad=True)
    labels = torch.randint(K, (n, *target))
    labels[torch.rand(labels.shape) < 0.2] = IGNORE
    return logits, labels


@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("size", "target"), [((4, 3), (9, 11)), ((5, 7), (3, 4)), ((3, 4), (3, 4)), ((1, 1), (2, 3))]
)
def test_the_gradient_is_that_of_the_sums(size, target, align_corners, reads):
    logits, labels = batch(size, target, dtype=torch.float64)

    def sums(x):
        return class_sums(x, labels, IGNORE, align_corners, reads)[0]

    assert torch.autograd.gradcheck(sums, (logits,))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_torchs_own_checks_of_operators(layout):
    logits, labels = batch()
    logits = logits.detach().to(memory_format=layout).requires_grad_()
    for reads in READS:
        torch.library.opcheck(class_sums, (logits, labels, IGNORE, False, reads))
    torch.library.opcheck(label_map_operator, (logits.detach(), 20, 21, False))
    torch.library.opcheck(checked_labels, (labels, K, IGNORE))


def losses_of(logits, labels):
    return full_size_losses(logits * 2, labels, LOSSES)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_losses_and_label_maps_compile_without_a_graph_break(backend):
    """At several sizes; the second compilation is for all sizes."""
    torch.compiler.reset()
    losses = torch.compile(losses_of, fullgraph=True, backend=backend)
    labels_of = torch.compile(label_map, fullgraph=True, backend=backend)
    for size, target, n in [((7, 6), (19, 22), 2), ((8, 9), (31, 30), 3), ((5, 4), (20, 17), 4)]:
        logits, labels = batch(size, target, n)
        found, expected = losses(logits, labels), losses_of(logits, labels)
        torch.testing.assert_close(found, expected, atol=0, rtol=0)
        grads = [torch.autograd.grad(a + 2 * b, logits)[0] for a, b, _ in (found, expected)]
        torch.testing.assert_close(*grads, atol=1e-8, rtol=1e-6)
        assert torch.equal(labels_of(logits, target), label_map(logits, target))


def test_compiled_losses_name_a_wrong_label():
    logits, labels = batch()
    labels[1, 2, 3] = 7
    for loss in (losses_of, lambda x, t: CrossEntropyLoss()(x, t)):
        compiled = torch.compile(loss, fullgraph=True, backend="eager")
        x = logits if loss is losses_of else torch.randn(2, K, *labels.shape[1:])
        with pytest.raises(ValueError, match=r"label 7.*0\.\.4"):
            compiled(x, labels)


def test_activation_checkpointing_changes_nothing():
    logits, labels = batch()
    found = checkpoint(losses_of, logits, labels, use_reentrant=False)
    expected = losses_of(logits, labels)
    grads = [torch.autograd.grad(a + b, logits)[0] for a, b, _ in (found, expected)]
    torch.testing.assert_close(*grads, atol=0, rtol=0)


def test_a_scaled_loss_in_half_precision_has_scaled_gradients():
    """As GradScaler scales it: the gradients would be too small for float16."""
    logits, labels = batch(target=(190, 220))
    half = logits.detach().half().requires_grad_()
    (expected,) = torch.autograd.grad(sum(losses_of(half.float(), labels)[:2]), half)
    (scaled,) = torch.autograd.grad(2.0**16 * sum(losses_of(half, labels)[:2]), half)
    assert scaled.dtype == torch.float16
    torch.testing.assert_close(scaled.float() / 2**16, expected.float(), atol=1e-6, rtol=2e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("fast", [False, True])
def test_a_gpu_is_not_awaited_and_its_graph_is_captured(fast):
    import fpn_neck.fast

    logits, labels = (x.detach().cuda() for x in batch((32, 40), (128, 160)))
    logits.requires_grad_()
    losses = [loss.cuda() for loss in LOSSES]

    def step():
        ce, dice, accuracy = full_size_losses(logits, labels, losses)
        (grad,) = torch.autograd.grad(ce + dice, logits)
        return ce, dice, accuracy, grad, label_map(logits, (128, 160))

    with fpn_neck.fast.enable(fast):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            expected = [step() for _ in range(3)][-1]  # the first makes the taps
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = step()
        graph.replay()
        torch.cuda.synchronize()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_the_gradient_is_the_same_if_autocast_is_on_in_the_backward_pass():
    logits, labels = 3 * torch.randn(2, 5, 6, 7), torch.randint(5, (2, 24, 28))
    grads = []
    for enabled in (False, True):
        x = logits.clone().requires_grad_()
        loss = full_size_losses(x, labels, [DiceLoss()])[0]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss.backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


def test_an_eager_call_does_not_load_torchs_compiler(run_python):
    code = """
import sys
import torch
from fpn_neck import CrossEntropyLoss
from fpn_neck.strips.full_size_loss import full_size_losses
from fpn_neck.strips.label_map import label_map

logits, labels = torch.randn(1, 5, 8, 8, requires_grad=True), torch.zeros(1, 16, 16, dtype=int)
full_size_losses(logits, labels, [CrossEntropyLoss()])[0].backward()
label_map(logits.detach(), (16, 16))
print("torch._dynamo" in sys.modules)
"""
    assert run_python(code).strip() == "False"
