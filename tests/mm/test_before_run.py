"""What is refused before anything is built."""

import pytest

pytest.importorskip("mmengine")

from mmengine.config import Config  # noqa: E402

from fpn_neck.mm.before_run import check_data  # noqa: E402


def check(**optimizer):
    cfg = dict(
        model=dict(type="ToyModel"),
        train_dataloader=dict(batch_size=1),
        train_cfg=dict(by_epoch=False, max_iters=1),
        optim_wrapper=dict(optimizer=optimizer),
    )
    check_data(Config(cfg), "train")


def test_an_unknown_optimizer_is_named():
    """mmengine's own error is 'None is not a callable object', with paramwise_cfg."""
    with pytest.raises(ValueError) as caught:
        check(type="AdmW", lr=0.01)
    text = str(caught.value)
    assert text.startswith("config: optim_wrapper.optimizer.type='AdmW': no such optimizer; near: ")
    assert "'AdamW'" in text
    check(type="AdamW", lr=0.01)
    check(type="mmengine.SGD", lr=0.01)
    check(model=dict(lr=0.1))  # of a constructor that knows what it is


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_a_text_for_a_number_is_named(name):
    expected = f"config: optim_wrapper.optimizer.{name}='1e-3x': expected a number, not a text"
    with pytest.raises(TypeError, match=expected):
        check(type="SGD", **{name: "1e-3x"})


def check_loader(**loader):
    cfg = dict(
        model=dict(type="ToyModel"),
        train_dataloader=dict(batch_size=1) | loader,
        train_cfg=dict(by_epoch=False, max_iters=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
    )
    check_data(Config(cfg), "train")


def test_a_loader_is_checked():
    with pytest.raises(ValueError, match="config: train_dataloader.batch_size=0: expected at"):
        check_loader(batch_size=0)


@pytest.mark.parametrize("given", [None, "pseudo_collate", {}, {"type": ""}])
def test_a_collate_fn_without_a_type_is_named(given):
    with pytest.raises(TypeError, match="config: train_dataloader.collate_fn=.*key 'type'"):
        check_loader(collate_fn=given)


def test_an_unknown_collate_fn_is_named():
    """torch's own error is 'the first argument must be callable'."""
    with pytest.raises(ValueError, match="collate_fn.type='pseudo_colate'.*'pseudo_collate'"):
        check_loader(collate_fn=dict(type="pseudo_colate"))
    check_loader(collate_fn=dict(type="pseudo_collate"))
    check_loader(collate_fn=dict(type="mmengine.default_collate"))
    check_loader(collate_fn=dict(type=list))
    check_loader(collate_fn=list)
