"""What can't be built of a config: one line that names the part."""

import pytest

pytest.importorskip("mmengine")

from mmengine.config import Config  # noqa: E402
from mmengine.registry import HOOKS, LOOPS, Registry  # noqa: E402

from fpn_neck.mm.config.explain_build import building  # noqa: E402

PARTS = Registry("parts", scope="mmengine")


@PARTS.register_module()
class Part:
    def __init__(self, size=1, inner=None):
        if size < 0:
            raise AttributeError("size is not positive")
        self.inner = inner and PARTS.build(inner)

    def run(self):
        raise KeyError("while it runs")


def message(registry, cfg, *path):
    part = cfg
    for key in path:
        part = part[key]
    with pytest.raises(ValueError) as caught, building(cfg):
        registry.build(part)
    return str(caught.value)


def test_an_unknown_type_is_named_without_advice():
    cfg = Config(dict(default_hooks=dict(logger=dict(type="Foo", a=1)), train_cfg=dict(type="Bar")))
    text = message(HOOKS, cfg, "default_hooks", "logger")
    assert text.startswith("config: default_hooks.logger (type 'Foo'): Foo is not in the")
    assert "http" not in text and text.endswith("registry.")
    assert message(LOOPS, cfg, "train_cfg").startswith("config: train_cfg (type 'Bar'): Bar is")


def test_the_innermost_part_is_named():
    cfg = Config(dict(model=dict(type="Part", inner=dict(type="Part", inner=dict(type="No")))))
    assert "config: model.inner.inner (type 'No')" in message(PARTS, cfg, "model")


def test_of_two_of_one_type_the_one_with_its_settings_is_named():
    cfg = Config(dict(parts=[dict(type="Part"), dict(type="Part", size=-1)]))
    text = message(PARTS, cfg, "parts", 1)
    assert text == "config: parts.1 (type 'Part'): size is not positive"


def test_an_unknown_argument_is_named():
    cfg = Config(dict(model=dict(type="Part", colour=3)))
    assert "config: model (type 'Part')" in (text := message(PARTS, cfg, "model"))
    assert "'colour'" in text


def test_what_was_built_keeps_its_errors():
    cfg = Config(dict(model=dict(type="Part")))
    with pytest.raises(KeyError, match="while it runs"), building(cfg):
        PARTS.build(cfg.model).run()
