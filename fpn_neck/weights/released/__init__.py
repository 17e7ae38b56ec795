"""The model that comes with the package, for `fpn_neck.load()` and ``fpn-neck predict PHOTOS``.

``clothing/`` is a folder of `fpn_neck.Segmenter.save_pretrained`, in float16, with ``card.json``:
data, training and metrics. ``tools/release.py`` writes it.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "clothing"
CARD = "card.json"


def released_model() -> Path:
    """The folder of the model, for `fpn_neck.load`; the model needs torch and timm.

    Raises:
        FileNotFoundError: this version of the package comes without a model.
    """
    if not (FOLDER / "config.json").is_file():
        raise FileNotFoundError("no model is released in this version: name a checkpoint or folder")
    return FOLDER
