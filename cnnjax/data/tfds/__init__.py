"""Datasets of tensorflow-datasets, without TensorFlow: builders, downloads, prepared records."""
