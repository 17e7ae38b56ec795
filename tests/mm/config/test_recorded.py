"""A checkpoint's own settings that its weights do not show."""

import warnings

import pytest

pytest.importorskip("mmengine")

from mmengine.config import Config  # noqa: E402

from fpn_neck.mm.config.recorded import changed_settings, check_settings  # noqa: E402

MODEL = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor", mean=[1.0, 2.0], std=(3, 4), bgr_to_rgb=True
    ),
    neck=[dict(type="FPN"), dict(type="BFP")],
    decode_head=[dict(type="FPNHead", align_corners=False), dict(type="FPNHead")],
    auxiliary_head=dict(type="FCNHead", align_corners=False),
)


def meta_of(**more):
    """As mmengine saves it."""
    return {"cfg": Config(dict(model=MODEL, **more)).pretty_text}


def changed(**parts):
    return changed_settings({**MODEL, **parts}, meta_of())


def test_the_same_settings_are_no_change():
    assert changed() == ""
    preprocessor = {**MODEL["data_preprocessor"], "mean": (1, 2), "std": [3.0, 4.0], "size": (9, 9)}
    assert changed(data_preprocessor=preprocessor) == ""
    assert changed(auxiliary_head=dict(type="FCNHead", align_corners=True)) == ""
    assert changed_settings(dict(type="SegTTAModel", module=MODEL), meta_of()) == ""


def test_other_settings_are_named_with_both_values():
    preprocessor = dict(type="SegDataPreProcessor", mean=[0, 0], std=(3, 4))
    assert changed(data_preprocessor=preprocessor) == (
        "model.data_preprocessor.bgr_to_rgb=False here, True in training, "
        "model.data_preprocessor.mean=[0, 0] here, [1.0, 2.0] in training"
    )
    heads = [MODEL["decode_head"][0], dict(type="FPNHead", align_corners=True)]
    expected = "model.decode_head.1.align_corners=True here, False in training"
    assert changed(decode_head=heads) == expected
    tta = dict(type="SegTTAModel", module={**MODEL, "decode_head": heads})
    assert changed_settings(tta, meta_of()) == expected


@pytest.mark.parametrize(
    "meta",
    [
        None,
        {},
        {"cfg": None},
        {"cfg": "model ="},
        {"cfg": "model = dict(type=open('/etc/passwd'))"},
        {"cfg": "model = dict(**other)"},
        {"cfg": "other = 1"},
        {"cfg": "model = [" * 10_000},
        {"cfg": "model = 3"},
    ],
)
def test_a_text_that_is_no_plain_config_is_not_compared(meta):
    assert changed_settings(MODEL, meta) == ""


def test_a_change_is_refused_or_told():
    with pytest.raises(ValueError, match="a.pth was trained with other settings: .*allow-mismatch"):
        check_settings(
            {"decode_head": [{"align_corners": True}]}, meta_of(), "a.pth", allow_mismatch=False
        )
    with pytest.warns(UserWarning, match="other settings: model.decode_head.0.align_corners=True"):
        check_settings(
            {"decode_head": [{"align_corners": True}]}, meta_of(), "a.pth", allow_mismatch=True
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_settings(MODEL, meta_of(), "a.pth", allow_mismatch=False)
