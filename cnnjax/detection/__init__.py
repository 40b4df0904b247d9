"""Boxes and what is done with them: anchors, grids, losses, suppression, judging."""
