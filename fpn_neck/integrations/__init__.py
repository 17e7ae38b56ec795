"""Old names of `models.timm_backbone` and `models.torchvision_backbone`; they go with 0.2."""
