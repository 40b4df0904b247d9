"""Random changes of training examples, on the device: images and what moves with them (kinds.py).

`augment.augment` is all that training calls; geometry, colour and mixing hold what it does, views what is averaged
at test time.
"""
