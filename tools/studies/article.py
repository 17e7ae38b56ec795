"""The article's model on true labels (base) and on the masks of its own pipeline (published)."""

base = "../../configs/segmentation/fpn_article_1xb16-10k_clothing-256x256.py"
metrics = ["mIoU_occurring", "aAcc", "super/mIoU_occurring", "super/aAcc"]  # percent
common = {
    "val_dataloader.dataset.split": "choosing",
    "default_hooks.checkpoint.save_best": None,  # the last one counts
}
size = (256, 256)
factors = {
    "published": {
        "custom_imports": dict(imports=["fpn_neck", "study_parts.article_masks"]),
        "train_dataloader.dataset.pipeline": [
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="ArticleMasks", size=size),
            dict(type="Resize", scale=size, keep_ratio=False),  # the photo; the mask has this size
            dict(type="PackSegInputs"),
        ],
    },
}
