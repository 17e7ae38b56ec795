"""What a new config says: sizes, classes and steps, from the files of a data set."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

from fpn_neck.datasets.check.findings import InvalidFile
from fpn_neck.datasets.check.masks import photo_size
from fpn_neck.datasets.own import recipe
from fpn_neck.datasets.own.coco_split import class_names, read_annotations, write_splits
from fpn_neck.datasets.own.mask_values import (
    IGNORED,
    MaskValues,
    as_values,
    labels_of,
    name_of,
    read_table,
    read_values,
    write_label_masks,
)
from fpn_neck.datasets.own.pairs import masks_without_photo, pair_by_name
from fpn_neck.utils.files import write_text
from fpn_neck.utils.progress import with_progress
from fpn_neck.utils.text import first_few

_SAMPLE = 300  # photos whose size is read


def run(args: Namespace) -> None:
    """Look at the files, and write the config."""
    if args.out.suffix != ".py":
        raise ValueError(f"--out={args.out}: a config is a Python file; give FILE.py")
    if args.out.exists() and not args.force:
        raise ValueError(f"--out={args.out} is there; --force replaces it")
    text = _segmentation(args) if args.task == "segmentation" else _detection(args)
    write_text(args.out, text)
    print(f"{args.out}: train it by: fpn-neck train {shlex.quote(str(args.out))}")


def _segmentation(args: Namespace) -> str:
    images, masks = args.images.absolute(), args.masks.absolute()
    pairs = pair_by_name(images, masks)
    if alone := masks_without_photo(pairs, masks):
        names_of = first_few([mask.name for mask in alone])
        print(f"{len(alone)} masks have no photo and are left out: {names_of}", file=sys.stderr)
    names = _names(args)
    backbone = _backbone(args)
    sizes = _sizes([photo for photo, _ in pairs])
    files = [mask for _, mask in pairs]
    table = read_table(args.table) if args.table else None
    palettes = table is not None and table.coloured
    values = read_values(with_progress(files, len(files), "masks"), palettes=palettes)
    labels: dict[int, int] | None = None
    if table:
        labels, names = _labels_of_table(as_values(table, values.coloured))
    elif not values.are_labels(len(names) if names else None):
        labels = labels_of(values, names)
    elif values.channels:  # mmseg reads one channel
        labels = {value: value for value in sorted(values.pixels)}
    if names is None:
        highest = max(set(labels.values() if labels else values.pixels) - {IGNORED})
        names = [f"class_{label}" for label in range(highest + 1)]
    if not values.coloured and (labels or {}).get(IGNORED, IGNORED) == IGNORED:
        _tell_ignored(values)
    if len(names) < 2:
        raise ValueError(
            f"one class, {names[0]!r}: a segmenter needs two or more; what is not {names[0]!r} "
            "needs a label too, such as background"
        )
    if labels:
        masks = _convert(args.out, images, masks, pairs, labels, values)
    print(f"{len(pairs)} photos, {len(names)} classes: {', '.join(names)}", file=sys.stderr)
    iterations = recipe.iterations_for(len(pairs))
    return recipe.segmentation_config(images, masks, names, sizes, iterations, backbone)


def _tell_ignored(values: MaskValues) -> None:
    """How much the training leaves out: masks of 0 and 255 may be among masks of labels."""
    if count := values.pixels[IGNORED]:
        share = 100 * count / values.pixels.total()
        print(f"{share:.1f} % of the pixels are {IGNORED}, which is ignored", file=sys.stderr)


def _names(args: Namespace) -> list[str] | None:
    """The names of --classes; None without it."""
    if args.classes is None:
        return None
    if args.table:
        raise ValueError("--table names the classes; leave --classes out")
    names = [name.strip() for name in args.classes.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(
            f"--classes {args.classes!r}: expected different names with commas between them"
        )
    return names


def _labels_of_table(table: dict[int, str]) -> tuple[dict[int, int], list[str]]:
    """Value -> label, and the classes; the name 'ignore' is `IGNORED`."""
    names = [name for name in dict.fromkeys(table.values()) if name != "ignore"]
    if len(names) > IGNORED:
        raise ValueError(
            f"--table names {len(names)} classes, and labels are 0 to {IGNORED - 1}, since "
            f"{IGNORED} is ignored"
        )
    numbers = {name: label for label, name in enumerate(names)} | {"ignore": IGNORED}
    return {value: numbers[name] for value, name in table.items()}, names


def _convert(
    out: Path,
    images: Path,
    masks: Path,
    pairs: Sequence[tuple[Path, Path]],
    labels: dict[int, int],
    values: MaskValues,
) -> Path:
    """Write masks of labels into a folder beside the config; the folder.

    They have the names of their photos, so that each replaces the one of an earlier call.
    """
    folder = out.with_name(f"{out.stem}_masks").absolute()
    if folder.resolve().is_relative_to(masks.resolve()):
        raise ValueError(
            f"--out={out}: the masks become labels in {folder}, which is in the folder of --masks; "
            "give another name or folder"
        )
    targets = [folder / photo.relative_to(images).with_suffix(".png") for photo, _ in pairs]
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
    files = zip((mask for _, mask in pairs), targets, strict=True)
    unknown = partial(name_of, coloured=values.coloured)
    kind = dict(coloured=values.coloured, palettes=values.palettes)
    write_label_masks(files, labels, unknown=unknown, **kind)
    shown = ", ".join(f"{name_of(v, values.coloured)} is {label}" for v, label in labels.items())
    print(f"{folder}: masks of labels ({shown})", file=sys.stderr)
    return folder


def _backbone(args: Namespace) -> recipe.Backbone | None:
    if args.weights is not None and not args.backbone:
        raise ValueError("--weights is for --backbone; give both")
    if not args.backbone:
        return None
    from fpn_neck.models.timm_backbone import TimmBackbone

    weights = None if args.weights is None else str(Path(args.weights).absolute())
    if weights is None:
        print(
            f"{args.backbone} begins with random weights; --weights FILE gives it trained ones",
            file=sys.stderr,
        )
    model = TimmBackbone(args.backbone, checkpoint=weights)
    mean, std = ([round(255 * v, 3) for v in values] for values in _statistics(args.backbone))
    return recipe.Backbone(args.backbone, weights, list(model.out_channels), mean, std)


def _statistics(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std of the images, 0..1, that timm gives the model."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None:
        return (0.5,) * 3, (0.5,) * 3
    return config.mean, config.std


def _detection(args: Namespace) -> str:
    photos = args.photos.absolute()
    content = read_annotations(args.annotations, photos)
    names = class_names(content)
    sizes = _sizes([photos / image["file_name"] for image in content["images"]])
    files = write_splits(content, args.out.with_suffix(""))
    number = len(content["images"])
    print(f"{number} photos, {len(names)} classes: {', '.join(names)}", file=sys.stderr)
    iterations = recipe.iterations_for(number)
    return recipe.detection_config(photos, files, names, args.model, sizes, iterations)


def _sizes(photos: Sequence[Path]) -> recipe.Sizes:
    """For the median photo of a sample."""
    step = max(1, len(photos) // _SAMPLE)
    try:
        sizes = [photo_size(photo, header_only=True) for photo in photos[::step]]
    except InvalidFile as e:
        raise ValueError(f"a photo can't be read: {e.value}; remove or repair it") from e
    return recipe.sizes_for(median(w for w, _ in sizes), median(h for _, h in sizes))
