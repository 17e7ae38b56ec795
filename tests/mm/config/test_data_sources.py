"""What is known of a config's data sets before their files are listed."""

import numpy as np
import pytest

pytest.importorskip("mmseg")

from mmcv.transforms import LoadImageFromFile  # noqa: E402
from mmengine.config import Config  # noqa: E402
from PIL import Image  # noqa: E402

from fpn_neck.mm.config.data_sources import data_sources  # noqa: E402


@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize("colours", ["color", "grayscale", "unchanged", "color_ignore_orientation"])
def test_a_photo_is_turned_as_its_loader_turns_it(tmp_path, backend, colours):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = tmp_path / "a.jpg"
    Image.new("RGB", (12, 8)).save(photo, exif=exif)
    settings = dict(color_type=colours, imdecode_backend=backend)
    loader = dict(type="LoadImageFromFile", **settings)
    dataset = dict(type="BaseSegDataset", data_root=str(tmp_path), pipeline=[loader])
    cfg = Config(dict(default_scope="mmseg", train_dataloader=dict(dataset=dataset)))
    (source,) = data_sources(cfg, "train")
    read = LoadImageFromFile(**settings)({"img_path": str(photo)})["img"]
    assert np.shape(read)[:2] == ((12, 8) if source.turned else (8, 12))
