"""Label masks, annotation files and checkpoints of any bytes: read right, or refused."""

import copy
import io
import json
import pickle

import numpy as np
import pytest
import torch
from helpers import mutations
from helpers.fuzzing import JUNK, REFUSED, RIGHT
from hypothesis import strategies as st
from PIL import Image

from fpn_neck.datasets.check.coco import check_annotations, check_categories, read_coco
from fpn_neck.datasets.check.findings import RefusedData, attempt
from fpn_neck.datasets.check.masks import Pair, Reading, examine
from fpn_neck.weights.checkpoints import find_state_dict, load_checkpoint

CLASSES = ("person", "car", "dog")
seeds = st.integers(0, 2**32 - 1)


def spoilt(data, seed, others=()):
    """The bytes after one of the mutations, or as they are."""
    rng = np.random.default_rng(seed)
    choices = [m for m in mutations.MUTATIONS if m is not mutations.huge_size]
    return choices[rng.integers(0, len(choices))](data, list(others) or [data], rng)


def assert_named(findings):
    """By rule and value, in one line, with a remedy."""
    brief = RefusedData(findings).brief(limit=len(findings))
    assert len(brief) == len(findings) and all(": " in line for line in brief)


# Label masks ------------------------------------------------------------------------------------


def masks():
    labels = np.random.default_rng(0).integers(0, 3, (32, 40)).astype(np.uint8)
    files = []
    for kind, options in (("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"})):
        file = io.BytesIO()
        Image.fromarray(labels).save(file, kind, **options)
        files.append(file.getvalue())
    return files


@pytest.mark.parametrize("examples", [250, pytest.param(10_000, marks=pytest.mark.slow)])
def test_label_masks_are_counted_or_named(fuzz, tmp_path, examples):
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.new("RGB", (40, 32)).save(photo)
    files = masks()
    reading = Reading(num_classes=3)

    def check(case):
        which, seed = case
        mask.write_bytes(spoilt(files[which], seed, files))
        examined = examine(Pair(photo, mask), reading)
        if examined.findings:
            assert_named(examined.findings)
            return REFUSED
        with Image.open(mask) as picture:
            values = np.asarray(picture)
        assert np.isin(values, [0, 1, 2, 255]).all() and values.shape == (32, 40)
        assert (examined.mask.pixels == np.bincount(values.ravel(), minlength=256)).all()
        return RIGHT

    fuzz(examples, st.tuples(st.integers(0, len(files) - 1), seeds), check)


# Annotations ------------------------------------------------------------------------------------

values = [j for j in JUNK if isinstance(j, (str, int, float, list, dict, type(None)))]
values = st.sampled_from([v for v in values if "3: 4" not in repr(v)])


def annotations():
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 32, "width": 40} for i in range(3)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": [
            {
                "id": i,
                "image_id": i % 3,
                "category_id": i % 3 + 1,
                "bbox": [i, 2, 10, 8.5],
                "area": 80,
            }
            for i in range(6)
        ],
    }


@st.composite
def annotation_files(draw):
    """(bytes, whether anything in them was made wrong)"""
    content = annotations()
    del content["annotations"][draw(st.integers(0, 6)) :]
    for one in content["annotations"]:
        one["bbox"][:2] = draw(st.tuples(st.integers(0, 30), st.integers(0, 22)))
    change = draw(st.sampled_from(["nothing", "value", "value", "bytes"]))
    if change == "bytes":
        return spoilt(json.dumps(content).encode(), draw(seeds)), True
    for _ in range(draw(st.integers(1, 2)) if change == "value" else 0):
        part, depth = content, draw(st.integers(0, 3))
        for level in range(4):
            keys = sorted(part) if isinstance(part, dict) else range(len(part))
            if not len(keys):
                break
            key = draw(st.sampled_from(list(keys)))
            if level == depth or not isinstance(part[key], (dict, list)):
                part[key] = copy.deepcopy(draw(values))
                break
            part = part[key]
    return json.dumps(content).encode(), change == "value"


@pytest.mark.parametrize("examples", [250, pytest.param(10_000, marks=pytest.mark.slow)])
def test_annotation_files_are_counted_or_named(fuzz, tmp_path, examples):
    file = tmp_path / "instances.json"

    def check(case):
        data, changed = case
        file.write_bytes(data)
        findings = []
        content = attempt(read_coco, file, findings)
        if content is not None:
            findings += check_categories("file", content, CLASSES)
            found = check_annotations("file", content, CLASSES)
            findings += found.findings
        if findings:
            assert_named(findings)
            assert changed
            return REFUSED
        names = {category["id"]: category["name"] for category in content["categories"]}
        labels = [names[one["category_id"]] for one in content["annotations"]]
        assert found.boxes.tolist() == [labels.count(name) for name in CLASSES]
        return RIGHT

    fuzz(examples, annotation_files(), check)


# Checkpoints ------------------------------------------------------------------------------------


def checkpoints():
    """Suffix -> a right file of it: torch's two formats, detectron2's, safetensors."""
    state = {"conv.weight": torch.randn(2, 3, 1, 1), "conv.bias": torch.zeros(2)}
    content = {"state_dict": state, "meta": {"epoch": 3, "classes": ["a", "b"]}}
    files = {}
    for name, new in ((".pth", True), (".old.pth", False)):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=new)
        files[name] = file.getvalue()
    files[".pkl"] = pickle.dumps({"model": {k: v.numpy() for k, v in state.items()}}, protocol=2)
    try:
        from safetensors.torch import save
    except ImportError:
        return files
    return files | {".safetensors": save(state)}


@pytest.mark.parametrize("examples", [250, pytest.param(10_000, marks=pytest.mark.slow)])
def test_checkpoints_are_loaded_or_refused_by_name(fuzz, tmp_path, examples):
    files = checkpoints()

    def check(case):
        suffix, seed = case
        path = tmp_path / f"model{suffix}"
        path.write_bytes(spoilt(files[suffix], seed, list(files.values())))
        try:
            content = load_checkpoint(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return REFUSED
        try:
            state = find_state_dict(content)
        except ValueError as error:
            assert "state_dict" in str(error)
            return REFUSED
        assert all(isinstance(x, torch.Tensor) for x in state.values())
        for x in state.values():
            x.flatten()[:1].tolist()  # its memory is there
        return RIGHT

    fuzz(examples, st.tuples(st.sampled_from(sorted(files)), seeds), check)
