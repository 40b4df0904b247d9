"""The traditional way to faces and their points: Haar cascades, shape models, warps."""
