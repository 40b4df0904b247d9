"""The pure train step, the loop, optimizers, evaluation, steps that are not finite."""
