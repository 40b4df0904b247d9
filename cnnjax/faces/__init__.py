"""Faces: found, and their points placed."""
