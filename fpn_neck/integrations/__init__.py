"""Where `models.timm_backbone` and `models.torchvision_backbone` were before 0.2."""
