"""A trained network applied to files of images."""
