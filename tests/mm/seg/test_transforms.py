"""Copy-paste of rare labels."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmseg")

import fpn_neck  # noqa: E402, F401 (mmseg's models need its operators)

pytest.importorskip("mmseg.models")

from mmengine.registry import DATASETS, DefaultScope  # noqa: E402

from fpn_neck.mm.seg.transforms import PasteRareLabels  # noqa: E402
from fpn_neck.utils.results.pictures import default_palette  # noqa: E402

CLASSES = ("wall", "chair", "lamp", "vase")
LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]


@pytest.fixture
def folders(tmp_path):
    """Six photos whose pixels are 40 * label + 7; lamp (2) is in two of them, vase (3) in one."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(6):
        labels = np.zeros((40, 30 + i), np.uint8)
        labels[5:15, 5:25] = 1
        if i in (0, 1):
            labels[20:25, 4:9] = 2
        if i == 5:
            labels[30:, 33:] = 3
        Image.fromarray(np.repeat((40 * labels + 7)[..., None], 3, 2)).save(
            tmp_path / f"images/{i}.png"
        )
        Image.fromarray(labels).save(tmp_path / f"masks/{i}.png")
    return tmp_path


def build(folders, **options):
    data = dict(
        type="fpn_neck.FoldersDataset",
        images=str(folders / "images"),
        masks=str(folders / "masks"),
        split="all",
        metainfo=dict(classes=CLASSES),
        pipeline=LOAD,
    )
    pack = dict(type="PackSegInputs")
    paste = dict(type="fpn_neck.PasteRareLabels", **options)
    cfg = dict(type="mmseg.MultiImageMixDataset", dataset=data, pipeline=[paste, pack])
    with DefaultScope.overwrite_default_scope("mmseg"):
        return DATASETS.build(cfg)


def test_labels_of_folders_get_colours_that_differ(folders):
    data = build(folders, max_photos=1, prob=0.0).dataset
    assert data.metainfo["palette"] == default_palette(len(CLASSES))


def test_rare_labels_come_with_their_pixels_and_all_else_stays(folders):
    np.random.seed(0)
    data, seen = build(folders, max_photos=2, prob=1.0), set()
    for i in range(len(data)):
        own = np.asarray(Image.open(folders / f"masks/{i}.png"))
        for _ in range(8):
            item = data[i]
            labels = item["data_samples"].gt_sem_seg.data[0].numpy()
            assert (item["inputs"].numpy() == 40 * labels + 7).all()  # both were copied
            changed = labels != own
            assert set(np.unique(labels[changed])) <= {2, 3}
            assert changed.sum() in (0, 25, 10 * (own.shape[1] - 33))  # cut to the photo's size
            seen |= set(np.unique(labels[changed]))
    assert seen == {2, 3}


def test_rare_labels_are_drawn_evenly(folders):
    np.random.seed(0)
    data = build(folders, max_photos=2, prob=1.0)
    indices = [data.pipeline[0].get_indices(data.dataset)[0] for _ in range(2000)]
    shares = np.bincount(indices, minlength=6) / 2000
    assert shares == pytest.approx([0.25, 0.25, 0, 0, 0, 0.5], abs=0.05)


@pytest.mark.parametrize("prob", [0.0, 0.3])
def test_prob_is_the_share_of_photos_that_get_something(folders, prob):
    np.random.seed(0)
    data = build(folders, max_photos=1, prob=prob)
    given = [bool(data.pipeline[0].get_indices(data.dataset)) for _ in range(2000)]
    assert np.mean(given) == pytest.approx(prob, abs=0.04)


def test_the_data_sets_own_file_is_not_changed(folders):
    np.random.seed(0)
    data = build(folders, max_photos=1, prob=1.0)
    data[2]
    plain = build(folders, max_photos=1, prob=0.0)[2]["inputs"]
    assert (plain.numpy() == 40 * np.asarray(Image.open(folders / "masks/2.png")) + 7).all()


def test_a_data_set_without_rare_labels_is_refused(folders):
    (folders / "masks/5.png").unlink()
    (folders / "images/5.png").unlink()
    with pytest.raises(ValueError, match="max_photos=1: .*the rarest one is in 2"):
        build(folders, max_photos=1, prob=1.0)[0]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (dict(max_photos=0), "max_photos=0"),
        (dict(max_photos=2, prob=1.5), "prob=1.5"),
        (dict(max_photos=2, prob=True), "prob=True"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(options, names):
    with pytest.raises((TypeError, ValueError), match=names):
        PasteRareLabels(**options)
