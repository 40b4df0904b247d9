"""Random changes of training examples, on the device: images and what moves with them."""
