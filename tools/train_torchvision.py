"""Train a torchvision detector on our neck: tools/train_torchvision.py DATA --out DIR.

DATA is your own folder, or one of tools/make_shapes.py: COCO annotations/instances_{train,val}.json
and the photos in {train,val}/images. Both are checked before training. DIR gets checkpoint.pth,
metrics.json and, in pictures/, validation scenes with true boxes on the left and predicted ones on
the right.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from datetime import timedelta
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.detection import MeanAveragePrecision
from torchvision.datasets import CocoDetection
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_convert
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF
from torchvision.tv_tensors import BoundingBoxes, Mask
from torchvision.utils import draw_bounding_boxes

from fpn_neck.datasets.check.findings import RefusedData
from fpn_neck.datasets.check.instances import check_instances
from fpn_neck.models.timm_backbone import LITE0_MODEL, LITE0_PACKAGE
from fpn_neck.models.torchvision_backbone import P2_TO_P6, P3_TO_P7, FPNBackbone
from fpn_neck.utils.arguments import check_device
from fpn_neck.utils.command_line import add_device_argument, run_tool
from fpn_neck.utils.files import write_whole
from fpn_neck.utils.photos import highest_value, lies_on_black, rgb_pixels
from fpn_neck.utils.values import check_whole

CHANNELS = 64  # of the pyramid
ANCHOR_SIDES = (16, 32, 64, 128, 256)  # px, of the anchors on the five levels
BATCH = 4
DRAWN_SCORE = 0.5  # predictions below are left out of the pictures
COLOURS = ("white", "red", "blue", "yellow", "magenta", "lime", "cyan")  # by label
FLIP = v2.RandomHorizontalFlip()
MODELS = ("fasterrcnn", "maskrcnn", "retinanet", "fcos")


def parse_args() -> Namespace:
    parser = ArgumentParser(
        description=__doc__.split(":")[0], formatter_class=ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "data",
        type=Path,
        help="folder with photos in train/images and val/images, "
        "and COCO files annotations/instances_train.json and instances_val.json",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write")
    parser.add_argument("--model", choices=MODELS, default="fasterrcnn")
    parser.add_argument("--iters", type=int, default=400, help=f"steps of {BATCH} scenes")
    parser.add_argument("--lr", type=float, default=1e-3, help="highest learning rate (AdamW)")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(256, 320), metavar=("MIN", "MAX"),
        help="shorter and longest side of a scene in the network, px",
    )  # fmt: skip
    parser.add_argument("--pictures", type=int, default=8, help="how many to draw")
    add_device_argument(parser)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name, least in (("iters", 1), ("pictures", 0), ("seed", 0)):
        check_whole(f"--{name}", getattr(args, name), least)
    if not 0 < args.lr < 1:
        raise ValueError(f"--lr {args.lr}: expected a number between 0 and 1, e.g. 1e-3")
    if not 32 <= args.size[0] <= args.size[1]:
        raise ValueError(f"--size {args.size}: expected 32 <= MIN <= MAX, e.g. --size 256 320")
    return args


class Scenes(CocoDetection):
    """Image (3, H, W), float in 0..1, and the target as torchvision's detectors expect it.

    Labels count from 1 in the order of ``classes``; 0 is the detectors' background.

    Args:
        classes: names of the categories that are taken; None takes all of the file.
        masks: whether targets hold masks.
    """

    def __init__(
        self,
        data: Path,
        split: str,
        augment: bool = False,
        classes: Sequence[str] | None = None,
        masks: bool = True,
    ) -> None:
        annotations, photos = places(data, split)
        with redirect_stdout(StringIO()):  # pycocotools prints what it does
            super().__init__(photos, annotations)
        self.augment, self.masks = augment, masks
        names = {i: c["name"] for i, c in self.coco.cats.items()}
        self.classes = dict(enumerate(classes or names.values(), 1))
        labels = {name: label for label, name in self.classes.items()}
        self.labels = {i: labels[name] for i, name in names.items() if name in labels}

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        sample = self.load(index, crowds=False)
        return FLIP(*sample) if self.augment else sample

    def load(self, index: int, crowds: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Image and target, not flipped; with or without crowds (regions of many objects)."""
        photo = self.coco.imgs[self.ids[index]]
        image = read_photo(self.root / photo["file_name"])
        size = tuple(image.shape[-2:])
        if size != (photo["height"], photo["width"]):
            expected = f"its annotation {photo['width']}x{photo['height']} px"
            raise ValueError(f"{photo['file_name']} is {size[1]}x{size[0]}, {expected}")
        objects = [
            o
            for o in self.coco.imgToAnns[photo["id"]]
            if o["category_id"] in self.labels
            and min(o["bbox"][2:]) > 0
            and (crowds or not o.get("iscrowd"))
        ]
        boxes = torch.tensor([o["bbox"] for o in objects], dtype=torch.float32).reshape(-1, 4)
        target = {
            "boxes": BoundingBoxes(
                box_convert(boxes, "xywh", "xyxy"), format="XYXY", canvas_size=size
            ),
            "labels": torch.tensor([self.labels[o["category_id"]] for o in objects]).long(),
            "iscrowd": torch.tensor([o.get("iscrowd", 0) for o in objects], dtype=torch.int64),
        }
        if self.masks:
            masks = [torch.from_numpy(self.coco.annToMask(o)) for o in objects]
            target["masks"] = Mask(torch.stack(masks) if masks else torch.zeros(0, *size).byte())
        return image, target


def places(data: Path, split: str) -> tuple[Path, Path]:
    """The annotation file and the folder of the photos."""
    return data / f"annotations/instances_{split}.json", data / split / "images"


def read_photo(path: Path) -> Tensor:
    """The photo, float (3, H, W) in 0..1, turned as its EXIF tag says.

    Raises:
        ValueError: it can't be decoded.
    """
    try:
        with Image.open(path) as file:
            highest, on_black = highest_value(file), lies_on_black(file)
            photo = ImageOps.exif_transpose(file) if "exif" in file.info else file.copy()
    except Exception as error:  # decoders raise errors of many types
        raise ValueError(f"{path}: cannot be decoded ({error}); copy it again") from error
    if highest == 255:
        pixels = rgb_pixels(photo, highest, on_black=on_black)
        return TF.to_dtype(TF.to_image(pixels), torch.float32, scale=True)
    grey = np.asarray(photo).astype(np.float32) / highest
    return torch.from_numpy(grey).repeat(3, 1, 1)


def check(data: Path, model: str) -> None:
    """Check annotations and photos of both splits; only the photos' headers are read.

    Raises:
        FileNotFoundError: an annotation file is missing.
        RefusedData: what would stop or spoil the training.
        ValueError: a category is evaluated that no training box has.
    """
    for split in ("train", "val"):
        annotations, photos = places(data, split)
        if not annotations.is_file():
            raise FileNotFoundError(
                f"{annotations}: no such file; write a data set with tools/make_shapes.py {data}"
            )
        findings = check_instances(annotations, photos, outlines=model == "maskrcnn")
        if findings:
            raise RefusedData(findings)
    known, evaluated = (drawn_categories(places(data, split)[0]) for split in ("train", "val"))
    if new := sorted(evaluated - known):
        raise ValueError(
            f"{places(data, 'val')[0]}: categories {new} have boxes there and none in the training "
            "file, so no box of them could be found: correct their names, or remove them"
        )


def drawn_categories(annotations: Path) -> set[str]:
    """The names of the categories that have an annotation."""
    content = json.loads(annotations.read_bytes())
    names = {category["id"]: category["name"] for category in content["categories"]}
    return {names[annotation["category_id"]] for annotation in content["annotations"]}


def loader(scenes: Scenes, batch_size: int, shuffle: bool = False) -> DataLoader:
    def collate(samples: list) -> tuple:
        return tuple(zip(*samples, strict=True))

    return DataLoader(scenes, batch_size, shuffle=shuffle, collate_fn=collate)


def build_model(name: str, num_classes: int, size: tuple[int, int]) -> nn.Module:
    """One of `MODELS` on EfficientNet-lite0 with ImageNet weights.

    Args:
        num_classes: largest label + 1; label 0 is the background in all four.
        size: shorter and longest side in the network, px.
    """
    levels = P2_TO_P6 if name.endswith("rcnn") else P3_TO_P7
    backbone = FPNBackbone(
        LITE0_MODEL,
        backbone_options={"checkpoint": f"package://{LITE0_PACKAGE}", "frozen_levels": 1},
        neck=levels | {"out_channels": CHANNELS},
    )
    common = dict(min_size=size[0], max_size=size[1], image_mean=[0.5] * 3, image_std=[0.5] * 3)
    if name == "fcos":
        return detection.FCOS(backbone, num_classes, **common)
    scales = (1.0,) if name.endswith("rcnn") else (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    sides = tuple(tuple(s * scale for scale in scales) for s in ANCHOR_SIDES)
    anchors = AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * len(sides))
    if name == "retinanet":
        return detection.RetinaNet(backbone, num_classes, anchor_generator=anchors, **common)
    few = dict(  # small scenes need fewer proposals than COCO's
        rpn_pre_nms_top_n_train=500,
        rpn_post_nms_top_n_train=500,
        rpn_pre_nms_top_n_test=500,
        rpn_post_nms_top_n_test=300,
        box_batch_size_per_image=128,
    )
    model = {"fasterrcnn": detection.FasterRCNN, "maskrcnn": detection.MaskRCNN}[name]
    return model(backbone, num_classes, rpn_anchor_generator=anchors, **few, **common)


def batches(scenes: Scenes) -> Iterator[tuple]:
    while True:
        yield from loader(scenes, min(BATCH, len(scenes)), shuffle=True)


def train(model: nn.Module, scenes: Scenes, args: Namespace) -> None:
    """``args.iters`` steps of AdamW under a one-cycle rate; prints losses and the time left."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.iters + 1, pct_start=0.1
    )
    model.train()
    start = time.monotonic()
    for step, (images, targets) in enumerate(batches(scenes), 1):
        images = [image.to(args.device) for image in images]
        targets = [{k: v.to(args.device) for k, v in target.items()} for target in targets]
        losses = model(images, targets)
        loss = sum(losses.values())
        if not loss.isfinite():
            raise ValueError(f"--lr {args.lr}: the loss is {loss} at step {step}; choose less")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == args.iters:
            left = timedelta(seconds=round((time.monotonic() - start) / step * (args.iters - step)))
            parts = "  ".join(f"{k} {v:.3f}" for k, v in losses.items())
            print(f"[{step}/{args.iters}] eta {left}  loss {loss:.3f}  {parts}", flush=True)
        if step == args.iters:
            return


@torch.inference_mode()
def predict(model: nn.Module, scenes: Scenes, device: str) -> list[dict[str, Tensor]]:
    """Boxes (n, 4) as x1 y1 x2 y2 in px, labels, scores (and masks (n, 1, H, W)) per scene."""
    model.eval()
    predictions = []
    for images, _ in loader(scenes, BATCH):
        outputs = model([image.to(device) for image in images])
        predictions += [{k: v.cpu() for k, v in output.items()} for output in outputs]
    return predictions


def evaluate(scenes: Scenes, predictions: list[dict[str, Tensor]]) -> dict[str, float]:
    """COCO's mAP over IoU 0.50:0.95 and AP at 0.50, of boxes and, if predicted, of masks."""
    kinds = ("bbox", "segm") if "masks" in predictions[0] else ("bbox",)
    recalls = np.linspace(0, 1, 101).tolist()  # torchmetrics rounds its own to float32
    metric = MeanAveragePrecision(iou_type=kinds, rec_thresholds=recalls)
    metric.warn_on_many_detections = False  # of more than 100; COCO counts the best 100
    for index, prediction in enumerate(predictions):
        if "masks" in prediction:
            prediction = prediction | {"masks": prediction["masks"][:, 0] > 0.5}
        metric.update([prediction], [scenes.load(index, crowds=True)[1]])
    values = metric.compute()
    prefixes = {kind: f"{kind}_" if len(kinds) > 1 else "" for kind in kinds}
    return {
        f"{kind}_{name}": values[f"{prefixes[kind]}{key}"].item()
        for kind in kinds
        for name, key in (("mAP", "map"), ("mAP_50", "map_50"))
    }


def draw(scenes: Scenes, index: int, prediction: dict[str, Tensor]) -> Tensor:
    """Truth | prediction, uint8 (3, H, 2W)."""
    image, target = scenes[index]
    image = TF.to_dtype(image, torch.uint8, scale=True)
    sure = prediction["scores"] >= DRAWN_SCORE
    panels = []
    for boxes, labels in (
        (target["boxes"], target["labels"]),
        (prediction["boxes"][sure], prediction["labels"][sure]),
    ):
        names = [scenes.classes.get(int(i), str(int(i))) for i in labels]
        colours = [COLOURS[int(i) % len(COLOURS)] for i in labels]
        drawn = draw_bounding_boxes(image, boxes, names, colours, width=2) if names else image
        panels.append(drawn)
    return torch.cat(panels, dim=2)


def main() -> int:
    args = parse_args()
    args.device = check_device(args.device)
    try:
        check(args.data, args.model)
    except RefusedData as refused:
        print("\n".join(f"error: {line}" for line in refused.brief()), file=sys.stderr)
        return 2
    torch.manual_seed(args.seed)
    masks = args.model == "maskrcnn"
    train_scenes = Scenes(args.data, "train", augment=True, masks=masks)
    names = list(train_scenes.classes.values())
    val_scenes = Scenes(args.data, "val", classes=names, masks=masks)
    num_classes = len(names) + 1
    model = build_model(args.model, num_classes, tuple(args.size)).to(args.device)
    train(model, train_scenes, args)
    about = {"model": args.model, "num_classes": num_classes, "size": list(args.size)}
    checkpoint = {"state_dict": model.state_dict(), **about, "classes": train_scenes.classes}
    write_whole(args.out / "checkpoint.pth", partial(torch.save, checkpoint))

    predictions = predict(model, val_scenes, args.device)
    metrics = evaluate(val_scenes, predictions)
    write_whole(args.out / "metrics.json", lambda path: path.write_text(json.dumps(metrics)))
    shown = np.linspace(0, len(predictions) - 1, min(args.pictures, len(predictions))).astype(int)
    for i in map(int, shown):
        picture = TF.to_pil_image(draw(val_scenes, i, predictions[i]))
        name = str(val_scenes.ids[i]).zfill(6).replace("/", "_")
        write_whole(args.out / f"pictures/{name}.png", partial(picture.save, format="PNG"))
    print("  ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
    print(f"checkpoint, metrics and pictures: {args.out}")
    return 0


if __name__ == "__main__":
    run_tool(main)
