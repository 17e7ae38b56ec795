"""Models in files that other programs run; `metadata` and `runtime` need no torch."""
