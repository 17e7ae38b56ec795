"""``fpn_neck.load``: a trained model, ready for photos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fpn_neck.export.metadata import FORMATS
from fpn_neck.export.runtime import ExportedModel
from fpn_neck.utils.results.options import SCORE_THR
from fpn_neck.utils.results.predictor import Predictor
from fpn_neck.utils.values import check_share
from fpn_neck.weights.released import released_model

if TYPE_CHECKING:
    from mmengine.config import Config

_OF_EXTRAS = ("timm", "torchvision", "numpy", "PIL", "mmengine", "mmcv", "mmdet", "mmseg")
EXPORTED = tuple(suffix for suffix in FORMATS.values() if suffix != ".onnx")


def load(
    checkpoint: str | Path | None = None,
    config: str | Path | Config | None = None,
    device: str = "auto",
    *,
    score_thr: float = SCORE_THR,
    tta: bool = False,
) -> Predictor:
    """Load a trained model for photos: ``fpn_neck.load('best.pth')('photo.jpg').labels``.

    Checkpoints of training hold their config. It is read as data, and no code of a checkpoint is
    run. The predictor prepares photos as the model's own test pipeline does: their size, mean and
    standard deviation are the model's business.

    Args:
        checkpoint: a checkpoint of mmseg or mmdet, or a folder of
            `fpn_neck.Segmenter.save_pretrained`, which needs neither of them; or an ONNX file of
            ``fpn-neck export``, which runs on the CPU. None: the model of clothing photos that
            comes with the package, see `fpn_neck.weights.released`.
        config: a config file, ``package::path`` or mmengine's Config, for a checkpoint without one.
        device: 'auto' (a GPU by CUDA if there is one, else the CPU), 'cpu', 'cuda', 'cuda:1', ...
        score_thr: objects with a lower score are neither drawn nor counted in areas.
        tta: test-time augmentation, by the config's ``tta_model`` and ``tta_pipeline``; of a
            segmenter's folder, three sizes of each photo, with their mirror images.

    Returns:
        A predictor: photos -> results, see `fpn_neck.utils.results.predictor.Predictor` and
        `fpn_neck.utils.results.result.Result`.

    Raises:
        FileNotFoundError: the checkpoint or the config does not exist, or the package comes
            without a model.
        ValueError: they cannot be read or are of two models, or there is no config.
        ImportError: the framework of the model is not installed.
    """
    check_share("score_thr", score_thr)
    if checkpoint is None:
        checkpoint = released_model()
    refuse_exported(checkpoint)
    if Path(checkpoint).suffix == ".onnx":  # needs no torch
        if config is not None or tta or device not in ("auto", "cpu"):
            raise ValueError(f"{checkpoint} is an ONNX file: leave out config, device and tta")
        return ExportedModel(Path(checkpoint), score_thr=score_thr)
    from fpn_neck.models.pretrained import is_pretrained

    if is_pretrained(checkpoint):
        if config is not None:
            raise ValueError(f"{checkpoint} is a segmenter's folder: leave out config")
        with _extra_named(checkpoint, "timm"):
            from fpn_neck.mm.predict.segmenter import SegmenterPredictor

            return SegmenterPredictor(checkpoint, device, tta=tta)
    with _extra_named(checkpoint, "mm"):
        from fpn_neck.mm.predict.build import build_predictor

        return build_predictor(checkpoint, config, device, score_thr=score_thr, tta=tta)


@contextmanager
def _extra_named(model: str | Path, extra: str) -> Iterator[None]:
    """Say what to install for a model if a package is missing."""
    try:
        yield
    except ModuleNotFoundError as e:
        package = str(e.name).partition(".")[0]
        if package not in _OF_EXTRAS:
            raise
        raise ImportError(
            f"{model} needs the package {package}: pip install 'fpn_neck[{extra}]'"
        ) from e


def refuse_exported(name: str | Path) -> None:
    """Raise ValueError: it is an exported model of a format that is not loaded here."""
    if Path(name).suffix in EXPORTED:
        raise ValueError(f"{name}: of exported models only ONNX files are loaded here")
