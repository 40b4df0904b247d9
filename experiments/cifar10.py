"""Experiments on CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images, 32x32x3."""

import dataclasses

from cnnjax.config import Augment, Classification, Data, Evaluate, Experiment, Model, Optimizer, Train


def cifar10_resnet20() -> Experiment:
    """ResNet-20 on CIFAR-10 (He et al. 2016, section 4.2).

    python launch.py --experiment=cifar10_resnet20
    The paper has 91.25 % after 164 epochs; minutes on a GPU, about 14 hours on two CPU cores.
    """
    return _resnet("cifar10_resnet20", "resnet20")


def cifar10_resnet56() -> Experiment:
    """ResNet-56 on CIFAR-10 (He et al. 2016, section 4.2).

    python launch.py --experiment=cifar10_resnet56
    The paper has 93.03 %; for a GPU, or for published weights with --mode=import.
    """
    return _resnet("cifar10_resnet56", "resnet56")


def cifar10_airbench() -> Experiment:
    """The CIFAR-10 speed run to 94 % with Muon (after Keller Jordan's airbench).

    python launch.py --experiment=cifar10_airbench
    Made for one GPU and not yet measured on one; on two CPU cores about an hour.
    """
    return Experiment(
        name="cifar10_airbench",
        data=Data(name="cifar10", batch_size=2000),
        augment=Augment(crop=2, crop_fill="reflect", flip="alternating"),
        model=Model(name="airbench94", dtype="bfloat16"),
        classification=Classification(label_smoothing=0.2),
        # Of biases as of the head: 2e-6 * 2000 / (1 - 0.85) of their value at the rate's peak.
        optimizer=dataclasses.replace(
            speed_run(learning_rate=0.24, bias=106, dense=1340, whitening=3 / 8),
            bias_weight_decay=2e-6 * 2000 / (1 - 0.85) / 106,
        ),
        train=Train(epochs=8, evaluate_every=0, checkpoint_every=0),
        evaluate=Evaluate(batch_size=2000, augment="flip_shift"),
    )


def cifar10_airbench96() -> Experiment:
    """The CIFAR-10 speed run to 96 %: ten convolutions with shortcuts, SGD with lookahead, cutout (after airbench96).

    python launch.py --experiment=cifar10_airbench96
    Made for one GPU and not yet measured on one; airbench96 has 96.03 % after 37 epochs.
    """
    # It departs from airbench96 where views are averaged as logits, here as probabilities; and where weights are
    # float16, here float32 and computed with in bfloat16.
    return Experiment(
        name="cifar10_airbench96",
        data=Data(name="cifar10", batch_size=1024),
        augment=Augment(crop=4, crop_fill="reflect", flip="alternating", cutout=12, cutout_inside=True),
        model=Model(name="airbench96", dtype="bfloat16"),
        classification=Classification(label_smoothing=0.2),
        optimizer=Optimizer(
            name="sgd",
            # airbench's rate of 9 per 1024 summed losses, with Nesterov momentum's share taken out as it does.
            learning_rate=9.0 / (1 + 1 / (1 - 0.85)),
            bias_learning_rate=64 * 9.0 / (1 + 1 / (1 - 0.85)),
            schedule="triangular",
            warmup=0.1,
            initial=0.2,
            momentum=0.85,
            nesterov=True,
            weight_decay=0.012 / 9,
            bias_weight_decay=0.012 / 9 / 64,
            whitening=3 / 37,
            whitening_rate="weights",
            ema=0.95,
            lookahead=5,
        ),
        train=Train(epochs=37, evaluate_every=0, checkpoint_every=0),
        evaluate=Evaluate(batch_size=2000, augment="flip_shift"),
    )


def cifar10_laptop() -> Experiment:
    """The recipe of the speed run at a width and length for a laptop's CPU.

    python launch.py --experiment=cifar10_laptop
    Expect 92.7 % of the test set (mean of 3 seeds), 93.5 % of the three together; 22 minutes each on one CPU
    core. With --train.epochs=16, 93.3 % and together 94.0 % (601 of 10,000 wrong), in 46 minutes each beside other work;
    with 20, 93.2 % and together 94.1 % (589 wrong).
    """
    return Experiment(
        name="cifar10_laptop",
        data=Data(name="cifar10", batch_size=500),
        augment=Augment(crop=2, crop_fill="reflect", flip="alternating"),
        model=Model(name="airbench_laptop"),
        classification=Classification(label_smoothing=0.2),
        optimizer=speed_run(learning_rate=0.12, bias=26, dense=335),
        train=Train(epochs=10, evaluate_every=0, checkpoint_every=1),
        evaluate=Evaluate(augment="flip_shift"),
    )


def cifar10_dropconnect() -> Experiment:
    """Convolutions, locally connected layers and one DropConnect layer (Wan et al. 2013): a voter of twelve.

    python launch.py --experiment=cifar10_dropconnect --data.validation=0.01 --mode=sweep --sweep=train.seed=0:12
    The paper has 9.32 % wrong with 12 networks; 1,200 epochs each, for a GPU.
    """
    # The schedule is that of the authors' script: 1,000 epochs, 100 at a tenth and 100 at a hundredth of the rate;
    # crops of 24x24 and mirror images. Batches are of 64 all the time, there of 32 and 16 in the last two parts, and
    # all training images are learned from the first epoch on, there from the 701st. The rate is ours, since images
    # are normalized here; biases learn at twice the rate, as there. Two views are averaged, there ten.
    return Experiment(
        name="cifar10_dropconnect",
        data=Data(name="cifar10", batch_size=64),
        augment=Augment(crop=4, flip="random"),
        model=Model(name="dropconnect_cifar10", options=("window=24",)),
        optimizer=Optimizer(
            name="sgd",
            learning_rate=0.01,
            bias_learning_rate=0.02,
            weight_decay=5e-4,
            schedule="piecewise",
            boundaries=(1000 / 1200, 1100 / 1200),
        ),
        train=Train(epochs=1200, evaluate_every=20, checkpoint_every=5),
        evaluate=Evaluate(augment="flip"),
    )


def cifar10_dropconnect_laptop() -> Experiment:
    """The same network with half the maps and units, and AdamW for 12 epochs.

    python launch.py --experiment=cifar10_dropconnect_laptop
    Expect 74.8 % of the test set (one seed), where training images, which are distorted, reach 70 %: it would gain from
    more epochs. 16 minutes on one CPU core.
    """
    # After 600 steps the training loss was 1.51; with SGD, as above, it was 1.74.
    return dataclasses.replace(
        cifar10_dropconnect(),
        name="cifar10_dropconnect_laptop",
        model=Model(name="dropconnect_cifar10", options=("window=24", "features=32/32/32/16", "hidden=64")),
        optimizer=Optimizer(name="adamw", learning_rate=2e-3, weight_decay=1e-2, schedule="linear"),
        train=Train(epochs=12, evaluate_every=0, checkpoint_every=1),
    )


def _resnet(name: str, model: str) -> Experiment:
    return Experiment(
        name=name,
        data=Data(name="cifar10", batch_size=128),
        augment=Augment(crop=4, flip="random"),
        model=Model(name=model),
        optimizer=Optimizer(
            name="sgd", learning_rate=0.1, weight_decay=1e-4, schedule="piecewise", boundaries=(0.5, 0.75)
        ),
        train=Train(epochs=200, evaluate_every=5, checkpoint_every=5),
    )


def speed_run(learning_rate: float, bias: float, dense: float, whitening: float = 0.0) -> Optimizer:
    """Muon for convolutions, SGD for the rest; rates fall to zero in a line.

    Where the speed run to 94 % departs from its source, airbench94_muon:
    - Biases do not decay in cifar10_laptop. There, and in cifar10_airbench, those of the norms and of the whitening do,
      as much as the head: each step takes 0.0267 (1 - t / T) of their value. With that, two seeds of cifar10_laptop
      reached 92.47 and 92.75 %, without it 92.97 and 92.68 %.
    - Views are averaged as probabilities, as in all evaluation here; there as logits. One run of cifar10_laptop had
      92.97 % with the one and 92.99 % with the other.
    - Weights are float32, computed with in bfloat16; there both are float16 (--model.dtype=float16 computes so).
    """
    return Optimizer(
        name="muon",
        learning_rate=learning_rate,
        bias_learning_rate=bias,
        whitening=whitening,
        dense_learning_rate=dense,
        schedule="linear",
        momentum=0.6,
        nesterov=True,
        weight_decay=2e-5,
        muon_steps=3,
        muon_normalize=True,
        muon_rest="sgd",
        muon_rest_momentum=0.85,
    )
