"""Faces: found, and their points placed; the traditional way (Haar cascades, shape models, warps) and networks."""
