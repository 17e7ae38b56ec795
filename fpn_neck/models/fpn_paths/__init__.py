"""The neck's ways through the fast parts of a device; `fpn_neck.models.fpn` chooses."""
