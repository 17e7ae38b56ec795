"""Every kind of finding of the data checks: the rule that is broken, and the remedy."""

from __future__ import annotations

from typing import NamedTuple

RARE = 0.01  # a class is rare if at most this share of the photos shows it


class Kind(NamedTuple):
    rule: str
    remedy: str


# Any file
ABSENT = Kind(
    "file does not exist", "copy it there, or correct data_root, ann_file or the path of the file"
)
UNREADABLE = Kind("file cannot be decoded", "copy, export or download the file again, or remove it")
BOM = Kind(
    "text file begins with a byte order mark, which its readers take for text",
    "save it as UTF-8 without byte order mark",
)

# The data set and its lists
NOT_LISTED = Kind(
    "data set can't list its files", "correct data_root, data_prefix, ann_file or metainfo"
)
NOT_REGISTERED = Kind(
    "type of a data set is not registered",
    "correct the type, add custom_imports, or set default_scope to 'mmseg' or 'mmdet'",
)
EMPTY = Kind("data set has no photo", "correct data_root, data_prefix, img_suffix or ann_file")
MISSING = Kind(
    "photo does not exist", "copy the photo there, or remove it from the annotation or split file"
)
NO_MASK = Kind(
    "photo without its mask",
    "copy the mask there, or remove the photo; else check data_prefix and seg_map_suffix",
)
NO_PHOTO = Kind(
    "mask without its photo",
    "copy the photo there, or remove the mask; else check data_prefix and img_suffix",
)
SUFFIXED = Kind(
    "split file gives names with suffix, and img_suffix is added to them",
    "write the names without suffix, or set img_suffix=''",
)
LISTED_TWICE = Kind(
    "photo is listed more than once", "list it once; RepeatDataset shows photos more often"
)
CAPITALS = Kind(
    "file is skipped: its suffix differs in case", "rename it, or set img_suffix or seg_map_suffix"
)

# Photos and label masks
_AS_INDICES = "save the label indices 0, 1, ... as one 8-bit grey channel (PIL mode L), as PNG"
NO_RANGE = Kind(
    "photo holds numbers of no known range", "save it with 8 or 16 bits for each channel"
)
VANISHES = Kind(
    "photo is so narrow that resizing leaves no pixel of one side",
    "crop it, or remove it; else raise the scale of the pipeline's first resize",
)
THIN = Kind(
    "mask is one pixel wide or high, and LoadAnnotations drops that axis",
    "remove the photo and its mask",
)
SIZE = Kind(
    "photo and mask differ in size", "take both from the same source, neither resized nor turned"
)
LOSSY = Kind(
    "mask is a JPEG, whose lossy compression invents labels",
    "take the lossless original, or draw it again: labels along borders are lost",
)
COLOURS = Kind("mask holds colours instead of label indices", _AS_INDICES)
FLOATS = Kind("mask holds floating-point numbers instead of label indices", _AS_INDICES)
MIXED_PALETTE = Kind(
    "mask has a palette, others of the data set are plain grey",
    f"check that its palette's indices are the labels, then {_AS_INDICES}",
)
NO_LABEL = Kind(
    "mask holds values that are not labels",
    "correct the mask or the number of classes; if labels count from 1 and 0 means nothing, set "
    "reduce_zero_label=True",
)
EIGHT_BITS = Kind(
    "labels do not fit into 8 bits, in which mmseg's LoadAnnotations reads masks: it keeps the low "
    "byte of a larger value, and 255 is ignored",
    "take at most 255 classes (256, if ignore_index is not 255), or a loading transform of your "
    "own with another name",
)
ZERO_255 = Kind(
    "mask holds only 0 and 255, and training ignores 255", "save label 1 instead of 255"
)
BINARY_REDUCED = Kind(
    "reduce_zero_label leaves one label of two",
    "set reduce_zero_label=False, since background is a class here",
)

# COCO annotation files
NOT_COCO = Kind(
    "annotation file is not in COCO's format", "correct it: see cocodataset.org, 'Data format'"
)
TWICE = Kind(
    "an id occurs twice in the annotation file", "number the entries again after joining files"
)
MIXED_IDS = Kind(
    "some ids of photos are numbers and others are texts", "write all of them as numbers"
)
CATEGORIES = Kind(
    "categories of the annotation file don't match classes",
    "set metainfo=dict(classes=...) to the categories' names in the file's order: mmdet gives "
    "label 0 to the first category of the file that is among the classes",
)
NO_CATEGORY = Kind(
    "annotation of a category that its file doesn't list",
    "correct its category_id, or list the category",
)
NO_IMAGE = Kind(
    "annotation of a photo that its file doesn't list", "correct its image_id, or remove it"
)
EMPTY_BOX = Kind(
    "box is empty", "remove it or draw it again; training skips boxes below 1 px without a message"
)
NO_BOX = Kind(
    "data set for training has no box to train on",
    "correct ann_file, or export the annotations again: each object with its own box, iscrowd 0",
)
FILTERED = Kind(
    "filter_cfg or indices leaves no photo of the data set",
    "set min_size below the photos' shorter side, or leave out filter_cfg and indices",
)
OUTSIDE = Kind(
    "box extends beyond its photo",
    "clip it; bbox is [x, y, width, height] in px, from 0, at the photo's own size",
)
BOX_FORM = Kind(
    "boxes or outlines of the file are numbers of another form than COCO's",
    "write bbox as [x, y, width, height] from the upper left corner, and outlines x before y, all "
    "in px of the photo's own size",
)
AREA = Kind(
    "areas of the evaluated file are not those of its objects, so that scores of small, medium and "
    "large objects mix them",
    "write area as the object's own, in px: at most that of its box",
)
NO_OUTLINE = Kind(
    "box without its object's outline, which training reads",
    "draw it (segmentation), or remove the box, or take a detector that reads boxes only",
)
OUTLINE = Kind(
    "outline is neither polygons nor RLE as pycocotools reads them",
    "write segmentation as [[x1, y1, x2, y2, x3, y3, ...], ...], or as pycocotools.mask.encode "
    "gives it, or remove the box",
)
OUTLINE_ELSEWHERE = Kind(
    "outline lies outside of its box, or has no area",
    "write x before y, in px of the photo's own size, as in the box; or draw it again",
)
MASK_SIZE = Kind("instance mask and photo differ in size", "make the mask at the photo's own size")

# The annotation file of an evaluator
NO_TRUTH = Kind(
    "evaluator has no annotations",
    "set its ann_file to that of the evaluated data set, or add 'instances' to the meta_keys of "
    "PackDetInputs",
)
OTHER_TRUTH = Kind(
    "evaluator judges other photos or boxes than the data set holds",
    "set its ann_file to that of the evaluated data set; filter_cfg and indices don't reach it",
)
NO_SCORE = Kind(
    "evaluator has no box of the classes that counts, so that every score is -1",
    "correct its ann_file; for results without scores, set format_only=True and outfile_prefix",
)
NO_CROWD = Kind(
    "annotation without a valid iscrowd, which the evaluation reads",
    "write iscrowd as a number: 0 for one object, 1 for a region of many",
)
ID_ZERO = Kind(
    "evaluated annotation has an id that means 'not matched' or is no number",
    "number the annotations from 1",
)
NO_INFO = Kind(
    "evaluated file has no 'info', which the installed pycocotools reads",
    'add "info": {} to the file, or install pycocotools 2.0.11 or later',
)

# The model's heads
HEAD_CLASSES = Kind(
    "number of classes of a head differs from the data's",
    "set it to the number of classes, or metainfo=dict(classes=...) to the data's",
)
WEIGHTS = Kind(
    "length of class_weight differs from the number of outputs",
    "give one number per class, and one more if 'no object' is an output",
)
CLASS_ORDER = Kind(
    "data sets name the same classes in different orders, so that a label means two things",
    "give all splits the same metainfo=dict(classes=...)",
)
NUMBERING = Kind(
    "splits of one data set count labels from different values of their masks",
    "give all splits the same reduce_zero_label",
)
CLASSES_TEXT = Kind(
    "classes is a text, not a list of names", "add the comma: metainfo=dict(classes=('name',))"
)
NO_CLASSES = Kind("data set names no classes", "set metainfo=dict(classes=(...)) in the data set")
