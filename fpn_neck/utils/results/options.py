"""What people can choose of results, with its defaults; a parser reads it without numpy."""

SCORE_THR = 0.3  # objects with a lower score are not shown
OPACITY = 0.65  # of a label's colour over the photo
BACKGROUND = "__background__"  # label 0 of torchvision's detectors: no object has it
NO_CATEGORY = (BACKGROUND, "N/A")  # torchvision's names of labels that COCO files lack
OVERLAYS = ("side-by-side", "alone", "none")
