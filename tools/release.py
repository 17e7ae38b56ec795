"""Make the released model of checkpoints: tools/release.py CHECKPOINT... --data-root FOLDER.

A CHECKPOINT is of a training on clothing photos. Of several, which must be of one model and come
from the same weights, the mean is taken (Wortsman et al., Model soups, ICML 2022); the config is
the first one's. The tool writes the folder that `fpn_neck.load()` loads: weights in float16,
config.json, and card.json with data, training and metrics. It also writes the tables and the
picture of the model card. FOLDER holds labels.csv.

The metrics are those of the written folder, on the half of the validation photos that no choice was
made on. Nothing stays, and the exit code is 1, if the weights are larger than 14 MB, or if float16
changes the labels of more than 0.1 % of the pixels.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

import fpn_neck  # noqa: E402
from fpn_neck.datasets.clothing import layout as clothing  # noqa: E402
from fpn_neck.mm.config.in_checkpoint import read_trained  # noqa: E402
from fpn_neck.mm.seg.pretrained import to_segmenter  # noqa: E402
from fpn_neck.mm.seg.report.confusion import Confusion  # noqa: E402
from fpn_neck.models.pretrained import WEIGHTS  # noqa: E402
from fpn_neck.utils.command_line import run_tool  # noqa: E402
from fpn_neck.utils.files import write_text, write_whole  # noqa: E402
from fpn_neck.utils.progress import with_progress  # noqa: E402
from fpn_neck.utils.results.pictures import side_by_side  # noqa: E402
from fpn_neck.utils.results.predictor import Predictor  # noqa: E402
from fpn_neck.weights.checkpoints import find_state_dict, load_checkpoint  # noqa: E402
from fpn_neck.weights.released import CARD, FOLDER  # noqa: E402

MOST_BYTES = 14_000_000
LEAST_EQUAL = 0.999  # share of the pixels whose label float16 does not change
SPLIT, FEW = "reporting", 20  # photos of the short test, tests/tools/test_release.py
PAGE = PROJECT / "docs/results/clothing-model.md"
BEGIN, END = "<!-- tools/release.py writes the rest -->\n", "<!-- until here -->\n"
# OpenCV, which mmseg's pipeline resizes photos with, rounds pixels in another way.
_EQUAL, _AS_MMSEG = "labels as in float32", "labels as of the checkpoint in mmseg"
_WORST = 4  # photos on the picture, label maps only
_WIDTH = 200  # px of a label map on it


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument(
        "--iterations", type=int, nargs="+", metavar="N",
        help="of the trainings, one after the other (default: the first checkpoint's)",
    )  # fmt: skip
    parser.add_argument("--config", help="for a checkpoint that holds none")
    parser.add_argument(
        "--data-root",
        type=Path,
        default=os.environ.get("CLOTHING_ROOT"),
        help="default: CLOTHING_ROOT of the environment",
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="default: in the package")
    parser.add_argument("--page", type=Path, default=PAGE, help="the card (default: in docs/)")
    args = parser.parse_args()
    if args.data_root is None:
        parser.error("give --data-root, the folder with labels.csv")
    return args


def mean_of(checkpoints: Sequence[Path], path: Path) -> None:
    """Write the first checkpoint with the mean of the weights of all.

    Raises:
        ValueError: names of weights or their shapes differ.
    """
    first, *others = map(load_checkpoint, checkpoints)
    weights = find_state_dict(first)
    for name, other in zip(checkpoints[1:], map(find_state_dict, others), strict=True):
        if {k: v.shape for k, v in other.items()} != {k: v.shape for k, v in weights.items()}:
            raise ValueError(f"{name}: another model than that of {checkpoints[0]}")
        for key, value in weights.items():
            if value.is_floating_point():  # a norm counts its batches by whole numbers
                value += other[key]
    for value in weights.values():
        if value.is_floating_point():
            value /= len(checkpoints)
    torch.save(first, path)


class Evaluation:
    """Labels of photos against the truth.

    Attributes:
        confusion: of all photos.
        scores: mean IoU of each photo over the labels in its truth.
    """

    def __init__(self) -> None:
        self.confusion = Confusion(len(clothing.CLASSES))
        self.scores: list[float] = []

    def add(self, truth: np.ndarray, labels: np.ndarray) -> None:
        """A photo's labels, (H, W) each."""
        found = Confusion.of(truth, labels, len(clothing.CLASSES))
        self.confusion.add(found)
        self.scores.append(found.mean_iou)

    def metrics(self) -> dict[str, float]:
        """IoU and accuracy, 0 to 1; means over the labels that occur in the truth."""
        merged = self.confusion.merged(clothing.SUPER_OF)
        return {
            **_means("", self.confusion),
            **_means("nine/", merged),
            "labels": int(self.confusion.occurs.sum()),
            "photos": len(self.scores),
        }

    def by_label(self) -> list[dict[str, Any]]:
        """A row for each label that occurs, the most frequent one first."""
        pixels, iou = self.confusion.pixels.sum(1), self.confusion.iou
        return [
            {
                "label": clothing.CLASSES[i],
                "pixels": round(float(pixels[i] / pixels.sum()), 7),
                "photos": int(self.confusion.photos[i]),
                "iou": round(float(iou[i]), 6),
            }
            for i in self.confusion.by_frequency()
        ]


def _means(prefix: str, confusion: Confusion) -> dict[str, float]:
    return {
        f"{prefix}mIoU": round(confusion.mean_iou, 4),
        f"{prefix}accuracy": round(confusion.accuracy, 4),
    }


def evaluate(predictor: Predictor, pairs: Sequence[tuple[Path, Path]]) -> Evaluation:
    """Of photos with their masks, see `clothing.find_pairs`."""
    found = Evaluation()
    for photo, mask in pairs:
        found.add(truth_of(mask), predictor(photo).labels)
    return found


def few_photos(root: Path) -> list[tuple[Path, Path]]:
    """The photos of the short test."""
    return clothing.find_pairs(root, SPLIT)[:FEW]


def truth_of(mask: Path) -> np.ndarray:
    return np.asarray(Image.open(mask))


class Comparison:
    """Pixels that get the same label from two models."""

    def __init__(self, other: Predictor) -> None:
        self.other, self.equal, self.count = other, 0, 0

    def add(self, photo: Path, labels: np.ndarray) -> None:
        self.equal += int((self.other(photo).labels == labels).sum())
        self.count += labels.size

    @property
    def share(self) -> float:
        return round(self.equal / self.count, 5)


def card_of(args: Namespace, folder: Path, in_float32: Path) -> tuple[dict[str, Any], Evaluation]:
    """What card.json holds, and the evaluation on the reporting half."""
    pairs = clothing.find_pairs(args.data_root, SPLIT)
    cfg, read = read_trained(args.checkpoint, args.config)
    released = fpn_neck.load(folder, device="cpu")
    precise = Comparison(fpn_neck.load(in_float32, device="cpu"))
    trained = Comparison(fpn_neck.load(args.checkpoint, args.config, "cpu"))
    views = fpn_neck.load(folder, device="cpu", tta=True)
    found, few, augmented = Evaluation(), Evaluation(), Evaluation()
    for i, (photo, mask) in enumerate(with_progress(pairs, len(pairs))):
        truth, labels = truth_of(mask), released(photo).labels
        for evaluation in (found, few)[: 2 if i < FEW else 1]:
            evaluation.add(truth, labels)
        augmented.add(truth, views(photo).labels)
        for comparison in (precise, trained):
            comparison.add(photo, labels)
    meta = read.content.get("meta") or {}
    card = {
        "schema": 1,
        "data": {
            "name": "Clothing Co-Parsing (Yang, Luo, Lin, CVPR 2014)",
            "licence": "Apache-2.0",
            "split": "photo n is for validation if crc32('%04d' % n) % 8 == 0",
            "training photos": len(clothing.find_pairs(args.data_root, "train")),
            "reporting photos": len(pairs),
        },
        "training": {
            "backbone": cfg.model.backbone.model_name,
            "iterations": args.iterations or [meta.get("iter")],
            "checkpoints": len(args.checkpoints),
            "seed": meta.get("seed"),
            "average of the weights": "ema_state_dict" in read.content,
        },
        "test pipeline": list(map(dict, cfg.test_dataloader.dataset.pipeline)),
        "weights": {
            "bytes": (folder / WEIGHTS).stat().st_size,
            "dtype": "float16",
            _EQUAL: precise.share,
            _AS_MMSEG: trained.share,
        },
        "metrics": found.metrics(),
        "metrics with --tta": augmented.metrics(),
        "metrics of few photos": few.metrics(),
        "by label": found.by_label(),
    }
    return card, found


def refusal(card: dict[str, Any]) -> str:
    """Why the folder must not be released; '' if nothing speaks against it."""
    weights = card["weights"]
    equal = weights[_EQUAL]
    if weights["bytes"] > MOST_BYTES:
        return f"the weights have {weights['bytes']} bytes, at most {MOST_BYTES} are wanted"
    if equal < LEAST_EQUAL:
        return f"only {100 * equal:.2f} % of the labels are those of float32"
    return ""


def tables(card: dict[str, Any]) -> str:
    """The generated part of the model card, Markdown."""
    data, training, weights, metrics = (
        card[name] for name in ("data", "training", "weights", "metrics")
    )
    average = ", the average of the weights" if training["average of the weights"] else ""
    average += (
        f", the mean of {count} checkpoints" if (count := training["checkpoints"]) > 1 else ""
    )
    iterations = " + ".join(map(str, training["iterations"]))
    about = (
        f"`{training['backbone']}` with the pyramid and the head of this package,"
        f" {iterations} iterations, seed {training['seed']}{average}."
        f" {data['training photos']} photos for training."
        f" Weights: {weights['bytes'] / 1e6:.1f} MB, {weights['dtype']};"
        f" {100 * weights[_EQUAL]:.2f} % of the pixels have the label of the float32 weights, and"
        f" {100 * weights[_AS_MMSEG]:.2f} % that of the checkpoint in mmseg, where OpenCV resizes"
        " the photos."
    )
    lines = [
        textwrap.fill(about, 120),
        "",
        f"On the {metrics['photos']} photos of the reporting half, {metrics['labels']} labels"
        " occur:",
        "",
        "| | mean IoU | pixel accuracy |",
        "| --- | --- | --- |",
        *(
            f"| {name}{how} | {found[f'{prefix}mIoU']:.3f} | {found[f'{prefix}accuracy']:.3f} |"
            for how, found in (("", metrics), (", `--tta`", card["metrics with --tta"]))
            for name, prefix in (("labels that occur", ""), ("nine classes", "nine/"))
        ),
        "",
        "| label | share of the pixels | photos | IoU |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['label']} | {100 * row['pixels']:.2f} % | {row['photos']} | {row['iou']:.3f} |"
        for row in card["by label"]
    ]
    return "\n".join(lines) + "\n"


def picture(predictor: Predictor, root: Path, scores: Sequence[float]) -> Image.Image:
    """Truth and prediction of the worst photos, label maps only: photos are not published."""
    pairs = clothing.find_pairs(root, SPLIT)
    rows = []
    for i in np.argsort(scores, kind="stable")[:_WORST]:
        photo, mask = pairs[i]
        truth, labels = truth_of(mask), predictor(photo).labels
        step = max(1, truth.shape[1] // _WIDTH)
        maps = {"truth": truth[::step, ::step], "prediction": labels[::step, ::step]}
        rows.append(side_by_side(None, maps, clothing.CLASSES, clothing.PALETTE))
    size = max(row.width for row in rows), sum(row.height for row in rows)
    whole, top = Image.new("RGB", size, (255, 255, 255)), 0
    for row in rows:
        whole.paste(row, (0, top))
        top += row.height
    return whole


def write_page(page: Path, card: dict[str, Any]) -> None:
    """Raises ValueError: the page lacks the marks between which the tables belong."""
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} lacks the lines {BEGIN.strip()} and {END.strip()}")
    before, _, rest = text.partition(BEGIN)
    write_text(page, before + BEGIN + "\n" + tables(card) + "\n" + END + rest.partition(END)[2])


def main() -> int:
    args = parse_args()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        in_float32 = folder.with_name("float32")
        args.checkpoint = args.checkpoints[0]
        if len(args.checkpoints) > 1:
            args.checkpoint = folder.with_name("mean.pth")
            mean_of(args.checkpoints, args.checkpoint)
        for path in (folder, in_float32):
            to_segmenter(args.checkpoint, path, config=args.config, float16=path is folder)
        card, found = card_of(args, folder, in_float32)
        if reason := refusal(card):
            print(f"not released: {reason}", file=sys.stderr)
            return 1
        write_text(folder / CARD, json.dumps(card, indent=1) + "\n")
        write_page(args.page, card)
        worst = picture(fpn_neck.load(folder, device="cpu"), args.data_root, found.scores)
        write_whole(args.page.with_suffix(".png"), lambda path: worst.save(path, format="PNG"))
        args.out.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            shutil.copyfile(file, args.out / file.name)
    print(json.dumps(card["metrics"]))
    return 0


if __name__ == "__main__":
    run_tool(main)
