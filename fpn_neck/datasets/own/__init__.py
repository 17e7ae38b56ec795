"""A user's own photos: what is in the folders, a fixed split, and a config for them."""
