"""Published weights: file formats, names of parameters, conversion."""
