"""Pure functions of arrays: convolution, pooling, normalization, RoI pooling."""
