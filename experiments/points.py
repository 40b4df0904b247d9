"""Experiments that place points: landmarks of faces, joints of bodies."""

from cnnjax.config import Augment, Data, Evaluate, Experiment, Heatmaps, Model, Optimizer, Points, Train


def faces_landmarks() -> Experiment:
    """Is there a face, and where are its 68 points: the lecture's 137 outputs of a fully connected layer.

    python launch.py --experiment=faces_landmarks --data.name=points:PATH --data.backgrounds=PHOTOGRAPHS
    PATH holds train.csv and test.csv beside train/ and test/, or 300-W's .pts files. Without --data.backgrounds every
    image has a face, and that one is there is not learned. Without it, expect an NME by the outer eye corners of 0.065
    (mean of 3 seeds) of 400 faces, after 900 to learn from; 5 minutes on one CPU core.
    """
    return Experiment(
        name="faces_landmarks",
        task="points",
        data=Data(name="points:landmarks68", image_size=48, batch_size=32),
        # Of 135 held-out faces the NME was 0.071. Distorted twice as much it was 0.081, after 200 epochs 0.073, and 0.090
        # with a beta of 0.02 and 64 pixels.
        augment=Augment(flip="random", rotate=15.0, scale=0.1, translate=0.05, brightness=0.1, contrast=0.2),
        model=Model(name="point_net"),
        points=Points(weight=10.0, beta=0.005),
        optimizer=Optimizer(name="adamw", learning_rate=2e-3, weight_decay=1e-2, warmup=0.05, ema=0.995),
        train=Train(epochs=100, evaluate_every=20, checkpoint_every=20),
    )


def faces_heatmaps() -> Experiment:
    """68 points of a face, each by a heatmap of half of the image.

    python launch.py --experiment=faces_heatmaps --data.name=points:PATH
    PATH is that of faces_landmarks. After 900 faces expect an NME of 0.050 of 400 others (mean of 3 seeds), where
    faces_landmarks has 0.065; 18 minutes on one CPU core.
    """
    return Experiment(
        name="faces_heatmaps",
        task="heatmaps",
        data=Data(name="points:landmarks68", image_size=64, batch_size=32),
        # Of 135 held-out faces the NME was 0.053 (one seed), where faces_landmarks had 0.071.
        augment=Augment(flip="random", rotate=15.0, scale=0.1, translate=0.05, brightness=0.1, contrast=0.2),
        model=Model(name="heatmaps_small"),
        heatmaps=Heatmaps(sigma=1.5),
        optimizer=Optimizer(name="adamw", learning_rate=2e-3, warmup=0.05, ema=0.995),
        train=Train(epochs=60, evaluate_every=20, checkpoint_every=20),
    )


def pose_figures() -> Experiment:
    """The 14 joints of drawn figures, each by a heatmap: needs no files.

    python launch.py --experiment=pose_figures
    Expect 99.6 % of the joints of held-out figures within a fifth of the torso of their places (PCK@0.2); eight minutes
    on one CPU core.
    """
    # Not flipped: a figure's sides are told by their colours, which its mirror image has the other way round.
    return Experiment(
        name="pose_figures",
        task="heatmaps",
        data=Data(name="figures", batch_size=32),
        model=Model(name="heatmaps_small"),
        heatmaps=Heatmaps(sigma=1.5),
        optimizer=Optimizer(name="adamw", learning_rate=3e-3, warmup=0.05, ema=0.99),
        train=Train(epochs=10, evaluate_every=2, checkpoint_every=2),
    )


def pose_lsp() -> Experiment:
    """The 14 joints of people in Leeds Sports Pose, by a ResNet-18 and deconvolutions (Xiao, Wu & Wei 2018).

    python launch.py --experiment=pose_lsp --data.name=points:PATH
    PATH holds joints.mat, or a table of joints, beside images/.
    """
    return Experiment(
        name="pose_lsp",
        task="heatmaps",
        data=Data(name="points:lsp", image_size=128, batch_size=32),
        augment=Augment(flip="random", rotate=40.0, scale=0.25, translate=0.05, brightness=0.1, contrast=0.2),
        model=Model(name="heatmaps_resnet18"),
        heatmaps=Heatmaps(sigma=1.5),
        optimizer=Optimizer(
            name="adam", learning_rate=1e-3, schedule="piecewise", boundaries=(0.64, 0.86), warmup=0.02
        ),
        train=Train(epochs=140, evaluate_every=10, checkpoint_every=10),
        evaluate=Evaluate(augment="flip"),
    )


def faces_cascade() -> Experiment:
    """Finds faces by a cascade of boosted Haar features (Viola & Jones 2001), fitted in one go.

    python launch.py --experiment=faces_cascade --data.name=points:PATH --data.backgrounds=PHOTOGRAPHS
    PATH holds faces with 68 points, PHOTOGRAPHS images without faces. Of 900 faces and 100 photographs to learn from it
    keeps 94 % of 400 other faces and 0.1 % of the photographs' windows; a minute and a half on one CPU core.
    """
    return Experiment(
        name="faces_cascade",
        task="cascade",
        data=Data(name="points:landmarks68", image_size=128),
    )


def faces_shape_model() -> Experiment:
    """68 points of a face by their profiles and the modes of its shape (Cootes et al. 1995), fitted in one go.

    python launch.py --experiment=faces_shape_model --data.name=points:PATH
    With --shape_model.cascade=cascade.xml of faces_cascade, faces are found first. Of 900 faces to learn from and 400 to
    judge by, an NME of 0.149 from the mean shape and of 0.078 from near the real place; one minute on one CPU core.
    """
    return Experiment(
        name="faces_shape_model",
        task="shape_model",
        data=Data(name="points:landmarks68", image_size=128),
    )


def faces_mtcnn() -> Experiment:
    """Finds faces by three networks, each trained on what those before it let pass (MT-CNN, Zhang et al. 2016).

    python launch.py --experiment=faces_mtcnn --data.name=wider:PATH --mtcnn.landmarks=points:FACES
    PATH holds WIDER FACE, all or a part of it; any data set of photographs with boxes of faces will do. FACES are faces
    with 68 or 5 points. A run that is interrupted keeps the windows that it mined and goes on after the last hundred of
    steps. Launched with --mtcnn.weights=FOLDER, published networks are judged in the same way. After 1,239 images of WIDER
    FACE expect an AP50 of 0.73 of the faces of 20 pixels and more in 394 others, where the published weights have 0.87; two
    and a half hours on one CPU core.
    """
    return Experiment(
        name="faces_mtcnn",
        task="mtcnn",
        data=Data(name="wider:WIDER", image_size=640),
    )
