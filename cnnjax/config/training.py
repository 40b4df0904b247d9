"""What learns, and how: the model, its optimizer, the run and its evaluation."""

import dataclasses

from cnnjax.config.options import ON, option

WHITENED = ("airbench_laptop", "airbench94", "airbench95", "airbench96")
MUON = {"optimizer.name": ("muon",)}


@dataclasses.dataclass(frozen=True)
class Model:
    """Which network is trained."""

    name: str = option("lenet5", "a name of the model table")
    dtype: str = option(
        "float32",
        "what layers compute in; weights, and the arithmetic of batch normalization, stay float32; float16: with gradients of the sum over the batch, since those of the mean are too small for it",
        ("float32", "bfloat16", "float16"),
    )
    precision: str = option(
        "default",
        "of float32 products and convolutions: a TPU's default is one pass of bfloat16, a GPU's may be TF32; highest: float32 itself, as on a CPU, for which mode=import asks",
        ("default", "high", "highest"),
        needs={"model.dtype": ("float32",)},
    )
    convolutions: str = option(
        "auto",
        "of float32 on a CPU that is one device: XLA's own; or oneDNN's, which are faster and are compiled anew at each start; auto: oneDNN's where there is work for minutes",
        ("auto", "xla", "onednn"),
        needs={"model.dtype": ("float32",)},
    )
    options: tuple[str, ...] = option(
        (), "fields of the model's module, such as width=32 or widths=8/16/32, in place of those of the table"
    )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How weights follow their gradients. Rates are per update; shares are of the run, whatever its length."""

    name: str = option("adamw", "update rule", ("sgd", "adam", "adamw", "muon"))
    learning_rate: float = option(1e-3, "at its peak")
    reference_batch: int = option(
        0,
        "examples of an update for which all learning rates are meant: that of others is in proportion (Goyal et al. 2017); 0: rates are as they are given",
        above=-1,
    )
    bias_learning_rate: float = option(0.0, "of biases and norms, at its peak; 0: learning_rate")
    whitening: float = option(
        0.0,
        "airbench: share of the run in which the whitening layer's bias learns; 0: as others",
        needs={"model.name": WHITENED},
    )
    whitening_rate: str = option(
        "own",
        "airbench: of that bias: own, which falls to zero in a line over that share; or that of the weights, with their decay, until then",
        ("own", "weights"),
        needs={"optimizer.whitening": ON},
    )
    dense_learning_rate: float = option(0.0, "of dense kernels, at its peak; 0: learning_rate")
    schedule: str = option(
        "cosine",
        "of the learning rate over the run",
        ("constant", "cosine", "linear", "piecewise", "one_cycle", "triangular"),
    )
    warmup: float = option(
        0.0,
        "share of the run over which the rate rises to its peak (linearly; one_cycle: along a cosine)",
    )
    initial: float = option(
        0.0, "share of the peak rate at the start of the warm-up", needs={"optimizer.warmup": ON}
    )
    boundaries: tuple[float, ...] = option(
        (),
        "piecewise: shares of the run after which the rate is multiplied by decay",
        needs={"optimizer.schedule": ("piecewise",)},
    )
    decay: float = option(
        0.1, "piecewise: factor at each boundary", needs={"optimizer.schedule": ("piecewise",)}
    )
    final: float = option(
        0.0,
        "share of the peak rate that is left at the end (cosine, linear, one_cycle, triangular)",
        needs={"optimizer.schedule": ("cosine", "linear", "one_cycle", "triangular")},
    )
    momentum: float = option(0.9, "SGD and Muon: momentum; Adam: b1", below=1)
    b2: float = option(
        0.999,
        "Adam: decay of the second moment",
        below=1,
        needs={"optimizer.name": ("adam", "adamw", "muon")},
    )
    nesterov: bool = option(
        False, "SGD and Muon: Nesterov momentum", needs={"optimizer.name": ("sgd", "muon")}
    )
    weight_decay: float = option(
        0.0, "of weights only, not biases or norms; decoupled for adamw and muon, L2 for sgd and adam"
    )
    bias_weight_decay: float = option(0.0, "the same of biases and norms")
    muon_steps: int = option(5, "Muon: Newton-Schulz iterations", needs=MUON)
    muon_normalize: bool = option(
        False, "Muon: scale each convolution to norm sqrt(filters) before each update (airbench)", needs=MUON
    )
    muon_rest: str = option(
        "adamw", "Muon: update rule of everything but convolution kernels", ("adamw", "sgd"), needs=MUON
    )
    muon_rest_momentum: float = option(0.9, "Muon: momentum, or b1, of that rule", below=1, needs=MUON)
    frozen: tuple[str, ...] = option(
        (),
        "layers that stay as they are, norms with their statistics: names of stages (stage1), or paths of layers or parameters with all below them (conv1, block1_*, trunk/model/bn1); * stands for anything; trunk: all but the head",
    )
    trunk_learning_rate: float = option(
        1.0,
        "of all layers but the head, whose weights other classes make anew: the share of learning_rate at which they learn",
        above=0,
    )
    clip_norm: float = option(0.0, "clip gradients to this global norm; 0 is off")
    ema: float = option(
        0.0, "decay of an exponential moving average of the weights, used in evaluation; 0 is off", below=1
    )
    lookahead: int = option(
        0,
        "with ema: every so many steps training goes on from the average, which keeps a share that grows with the cube of progress (airbench); 0 is off",
    )
    accumulate: int = option(1, "steps whose gradients are averaged into one update", above=0)


@dataclasses.dataclass(frozen=True)
class Train:
    """How long a run is, where it begins, and what is kept of it."""

    epochs: float = option(0.0, "length of the run; give exactly one of epochs, steps, examples")
    steps: int = option(0, "length of the run in steps")
    examples: int = option(0, "length of the run in examples seen")
    seed: int = option(0, "of initialization, order and augmentation", below=2**31)
    seeds: int = option(
        1, "train so many seeds (seed, seed + 1, ...) in one program; mean and std are reported", above=0
    )
    init_from: str = option(
        "",
        "begin from trained weights: a workdir, DIR/checkpoints/STEP, the URL of a mirrored one, or what --weights of mode=import may be, such as hf:timm/resnet50.a1_in1k; what fits by name and shape is taken, with its preprocessing",
    )
    steps_per_call: int = option(
        0, "steps in one compiled call; 0: one on CPU, up to an epoch on accelerators"
    )
    data_parallel: bool = option(True, "split each batch over all local devices")
    norm_parts: int = option(
        1,
        "parts of a batch of which each has its own statistics in batch normalization; 1: those of the whole batch; a multiple of the devices: all that they exchange in a step is one sum",
        above=0,
    )
    evaluate_every: float = option(1.0, "epochs between evaluations; 0: at the end only")
    checkpoint_every: float = option(1.0, "epochs between checkpoints; 0: at the end only")
    patience: int = option(
        0,
        "stop after so many evaluations in a row without a better one of the validation split (data.validation); the best checkpoint then is the result, also for other modes; 0: train to the end",
        needs={"train.evaluate_every": ON, "train.keep_best": ON},
    )
    keep_last: int = option(2, "newest checkpoints that are kept", above=0)
    keep_best: int = option(1, "best checkpoints that are kept")
    log_every: int = option(50, "steps between lines of metrics.jsonl", above=0)
    tensorboard: bool = option(False, "also write TensorBoard event files")
    trackers: tuple[str, ...] = option(
        (),
        "also tell mlflow, wandb or both of the run; where that is, their own variables say, such as MLFLOW_TRACKING_URI and WANDB_MODE",
        ("mlflow", "wandb"),
    )
    on_nan: str = option(
        "stop",
        "when a loss or gradient is not finite: stop; skip that update; or roll_back to the newest checkpoint and go on with the data in another order",
        ("stop", "skip", "roll_back"),
    )
    nan_limit: int = option(
        10,
        "skip: updates in a row, roll_back: times to one checkpoint, after which the run stops all the same",
        above=0,
        needs={"train.on_nan": ("skip", "roll_back")},
    )
    debug_nans: bool = option(
        False, "name the layer in which the first value that is not finite appeared; waits for every step"
    )


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """How a split is evaluated, in training and by mode=evaluate."""

    batch_size: int = option(
        500, "images that the network sees at once in evaluation; no influence on the result", above=0
    )
    augment: str = option(
        "none",
        "test-time augmentation: average over mirrored views; over these and both upside down (flips); over shifted ones, for letters and signs; over mirrored and shifted ones; or (mode=evaluate) over ten crops of a larger image",
        ("none", "flip", "flips", "shift", "flip_shift", "ten_crop"),
    )
