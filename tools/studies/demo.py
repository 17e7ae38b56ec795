"""The model of `make demo`; SHAPES_ROOT is the folder of its scenes (`fpn-neck make_shapes`)."""

base = "../../configs/segmentation/fpn_lite0_demo_shapes-256x320.py"
metrics = ["mIoU_occurring", "aAcc"]  # percent
common = {"default_hooks.checkpoint.save_best": None}  # the last one counts
factors = {"loss-full": {"model.decode_head.loss_stride": 1}}  # the demo's is 2
