"""What people can choose of results, with its defaults; a parser reads it without numpy."""

SCORE_THR = 0.3  # objects with a lower score are not shown
OPACITY = 0.65  # of a label's colour over the photo
OVERLAYS = ("side-by-side", "alone", "none")
