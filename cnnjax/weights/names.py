"""What published weight files call the layers of each family.

Each function takes a model and returns a table from the path of a layer here, "block1_1/conv1", to its name
in the file, "layer1.0.conv1". Torch's names are torchvision's, or those of the authors where torchvision has
no such model: akamaster/pytorch_resnet_cifar10 for the CIFAR ResNets, Cadene (in timm, "legacy_se...") for
SENets.
"""

import re
from collections.abc import Callable, Iterable

import flax.linen as nn

from cnnjax.models.alexnet import AlexNetOneTower
from cnnjax.models.densenet import DenseNet
from cnnjax.models.face_landmarks import FaceLandmarks
from cnnjax.models.googlenet import GoogLeNet
from cnnjax.models.mtcnn import ONet, PNet, RNet
from cnnjax.models.rcnn import BOX_BINS, RCNN
from cnnjax.models.resnet import ResNet
from cnnjax.models.resnet_cifar import CifarResNet
from cnnjax.models.senet import SENet
from cnnjax.models.squeezenet import SqueezeNet
from cnnjax.models.vgg import VGG
from cnnjax.weights.darknet import is_darknet_model

Names = dict[str, str]


def torch_names(model: nn.Module, layers: Iterable[str]) -> Names | None:
    """Names in torch state dicts, without the leaf's ".weight"; None if no such file is known."""
    if isinstance(model, AlexNetOneTower):
        features = dict(zip(("conv1", "conv2", "conv3", "conv4", "conv5"), (0, 3, 6, 8, 10), strict=True))
        names = {layer: f"features.{index}" for layer, index in features.items()}
        return names | {"fc6": "classifier.1", "fc7": "classifier.4", "output": "classifier.6"}
    if isinstance(model, VGG):
        return _vgg(model)
    if isinstance(model, SqueezeNet):
        return _squeezenet(model)
    if isinstance(model, PNet | RNet | ONet):
        return {layer: layer for layer in layers}  # of facenet-pytorch
    if is_darknet_model(model):
        return {layer: layer.replace("/", ".") for layer in layers}  # darknet has none: they are our own
    rename: Callable[[str], str]
    if isinstance(model, GoogLeNet) and model.norm:
        rename = _googlenet
    elif isinstance(model, ResNet):
        rename = _resnet
    elif isinstance(model, CifarResNet):
        rename = _cifar_resnet
    elif isinstance(model, SENet):
        rename = _senet
    elif isinstance(model, DenseNet) and not model.small_images:
        rename = _densenet
    elif isinstance(model, RCNN) and getattr(model.trunk, "func", None) is ResNet:
        rename = _rcnn
    else:
        return None
    return {layer: rename(layer) for layer in layers}


def keras_names(model: nn.Module, layers: Iterable[str]) -> Names | None:
    """Names of layers in Keras .h5 files: VGG16, VGG19 and ResNets of keras.applications."""
    if isinstance(model, VGG) and not model.norm and len(model.hidden) == 2:
        names = {layer: re.sub(r"conv(\d)_(\d)", r"block\1_conv\2", layer) for layer in layers}
        return names | {"fc6": "fc1", "fc7": "fc2", "output": "predictions"}
    if isinstance(model, ResNet) and not model.small_images:
        return {layer: _keras_resnet(layer) for layer in layers}
    return None


def caffe_names(model: nn.Module, layers: Iterable[str]) -> Names | None:
    """Names of Caffe's layers with "." for "/", without the leaf's ".w" or ".b": SqueezeNet."""
    if not isinstance(model, SqueezeNet):
        return None
    return {layer: layer.replace("_", ".") for layer in layers} | {"output": "conv10"}


def tensorflow_names(model: nn.Module, layers: Iterable[str]) -> Names | None:
    """Names without the ".w" or ".b": of constants in Google's frozen graph inception5h, and of face-api.js."""
    if isinstance(model, FaceLandmarks):
        return {layer: layer.replace("_conv", "/conv") for layer in layers} | {"output": "fc"}
    if not isinstance(model, GoogLeNet) or not model.same_padding:
        return None
    return {layer: _inception5h(layer) for layer in layers}


def flattened_grids(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Height and width of the map that each of these fully connected layers sees flattened.

    Torch flattens channels first and this project channels last, so the rows of their weights differ in
    order.
    """
    if isinstance(model, AlexNetOneTower):
        return {"fc6": (model.grid, model.grid)}
    if isinstance(model, VGG):
        return {"fc6" if model.hidden else "output": (model.grid, model.grid)}
    if isinstance(model, GoogLeNet):
        return {"aux_head1/fc": (4, 4), "aux_head2/fc": (4, 4)}
    if isinstance(model, RCNN):
        return {"box_head/fc6": (BOX_BINS, BOX_BINS)}
    return {}


def is_pointwise_in_torch(model: nn.Module, layer: str) -> bool:
    """Whether a fully connected layer here is a 1x1 convolution in the torch file."""
    return isinstance(model, SENet) and "/se/" in layer


def _vgg(model: VGG) -> Names:
    names, index = {}, 0
    for i, number in enumerate(model.convs, start=1):
        for j in range(1, number + 1):
            names[f"conv{i}_{j}"] = f"features.{index}"
            if model.norm:
                names[f"bn{i}_{j}"] = f"features.{index + 1}"
            index += 3 if model.norm else 2  # convolution, (normalization), ReLU
        index += 1  # pool
    if not model.hidden:
        return names | {"output": "classifier"}
    for k in range(len(model.hidden)):
        names[f"fc{6 + k}"] = f"classifier.{3 * k}"  # linear, ReLU, dropout
    return names | {"output": f"classifier.{3 * len(model.hidden)}"}


def _squeezenet(model: SqueezeNet) -> Names:
    names, index = {"conv1": "features.0", "output": "classifier.1"}, 2  # convolution, ReLU
    for i in range(2, len(model.fires) + 2):
        if i - 1 in model.pool_after:
            index += 1
        for part in ("squeeze1x1", "expand1x1", "expand3x3"):
            names[f"fire{i}_{part}"] = (
                f"features.{index}.{part.removesuffix('1x1') if part[0] == 's' else part}"
            )
        index += 1
    return names


def _block(layer: str) -> str:
    """block3_1/conv1 -> layer3.0.conv1"""
    return re.sub(r"^block(\d+)_(\d+)/", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.", layer)


def _resnet(layer: str) -> str:
    name = re.sub(r"\bshortcut_bn$", "downsample.1", _block(layer))
    name = re.sub(r"\bshortcut$", "downsample.0", name)
    return "fc" if name == "output" else name


_RCNN = {
    r"trunk/model/(.*)": lambda m: f"backbone.body.{_resnet(m[1])}",
    r"fpn/(inner|layer)(\d)": lambda m: f"backbone.fpn.{m[1]}_blocks.{int(m[2]) - 1}.0",
    r"rpn/conv": lambda m: "rpn.head.conv.0.0",
    r"rpn/objectness": lambda m: "rpn.head.cls_logits",
    r"rpn/deltas": lambda m: "rpn.head.bbox_pred",
    r"box_head/(fc\d)": lambda m: f"roi_heads.box_head.{m[1]}",
    r"box_head/classes": lambda m: "roi_heads.box_predictor.cls_score",
    r"box_head/deltas": lambda m: "roi_heads.box_predictor.bbox_pred",
    r"mask_head/conv(\d)": lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0",
    r"mask_head/deconv": lambda m: "roi_heads.mask_predictor.conv5_mask",
    r"mask_head/logits": lambda m: "roi_heads.mask_predictor.mask_fcn_logits",
    r"keypoint_head/conv(\d)": lambda m: f"roi_heads.keypoint_head.{2 * int(m[1]) - 2}",  # a ReLU between
    r"keypoint_head/deconv": lambda m: "roi_heads.keypoint_predictor.kps_score_lowres",
}


def _rcnn(layer: str) -> str:
    for pattern, name in _RCNN.items():
        if match := re.fullmatch(pattern, layer):
            return name(match)
    raise ValueError(f"no layer of a two-stage detector: {layer}")


def renamed_since(model: nn.Module, name: str) -> str:
    """A tensor's name in old torch files as newer ones have it: two-stage detectors before torchvision 0.13."""
    if not isinstance(model, RCNN):
        return name
    name = re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", name)
    name = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", name)
    return re.sub(r"\.mask_fcn(\d)\.", lambda m: f".{int(m[1]) - 1}.0.", name)


def _cifar_resnet(layer: str) -> str:
    name = re.sub(r"\bshortcut_bn$", "shortcut.1", _block(layer))
    name = re.sub(r"\bshortcut$", "shortcut.0", name)
    return "linear" if name == "output" else name


def _senet(layer: str) -> str:
    if layer == "output":
        return "last_linear"
    if "/" not in layer:
        return f"layer0.{layer}"
    return _resnet(layer).replace("se/", "se_module.")


def _densenet(layer: str) -> str:
    if layer == "output":
        return "classifier"
    name = re.sub(r"^block(\d+)_layer(\d+)/", r"denseblock\1.denselayer\2.", layer)
    return "features." + re.sub(r"^(transition\d+)_", r"\1.", name)


def _googlenet(layer: str) -> str:
    heads = {"output": "fc"} | {
        f"aux_head{i}/{a}": f"aux{i}.{b}" for i in (1, 2) for a, b in (("fc", "fc1"), ("output", "fc2"))
    }
    if layer in heads:
        return heads[layer]
    layer, kind = (layer.removesuffix("_bn"), "bn") if layer.endswith("_bn") else (layer, "conv")
    parts = {
        "conv2d0": "conv1", "conv2d1": "conv2", "conv2d2": "conv3", "conv": "conv", "b1x1": "branch1",
        "b3x3_bottleneck": "branch2.0", "b3x3": "branch2.1", "b5x5_bottleneck": "branch3.0", "b5x5": "branch3.1",
        "pool_reduce": "branch4.1",
    }  # fmt: skip
    *module, part = layer.split("/")
    return ".".join([*(m.replace("aux_head", "aux") for m in module), parts[part], kind])


def _inception5h(layer: str) -> str:
    """inception3a/b5x5_bottleneck -> mixed3a_5x5_bottleneck; the main head is softmax2, after two auxiliary ones."""
    if layer == "output":
        return "softmax2"
    module, _, part = layer.rpartition("/")
    if module.startswith("aux_head"):
        head = {"conv": "head{}_bottleneck", "fc": "nn{}", "output": "softmax{}"}[part]
        return head.format(int(module[-1]) - 1)
    return f"{module.replace('inception', 'mixed')}_{part.removeprefix('b')}" if module else layer


def _keras_resnet(layer: str) -> str:
    """block1_2/conv3 -> conv2_block2_3_conv; the shortcut has number 0."""
    if layer == "output":
        return "predictions"
    if layer in ("conv1", "bn1"):
        return {"conv1": "conv1_conv", "bn1": "conv1_bn"}[layer]
    block, part = layer.split("/")
    stage, number = re.fullmatch(r"block(\d+)_(\d+)", block).groups()  # type: ignore[union-attr]
    index = 0 if part.startswith("shortcut") else int(part[-1])
    kind = "bn" if "bn" in part else "conv"
    return f"conv{int(stage) + 1}_block{number}_{index}_{kind}"
