"""The model zoo: one explicit table. Outside this package nothing imports linen."""

import dataclasses
import typing
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from cnnjax.config import CFG_FILE, ConfigError, did_you_mean
from cnnjax.models import allconv, densenet, googlenet, mcdnn, rcnn, resnet, vgg
from cnnjax.models.airbench import Airbench, uniform_init
from cnnjax.models.alexnet import AlexNet, AlexNetOneTower, ZFNet
from cnnjax.models.allconv import AllCNN, NetworkInNetwork
from cnnjax.models.classic import (
    MLP,
    MNIST_CNN,
    MNIST_FAST,
    TOY_CNN,
    TWO_STAGE,
    WORKED_EXAMPLE,
    ConvNet,
    LeNet5,
    LocalNet,
)
from cnnjax.models.connectivity import OneHiddenLayer
from cnnjax.models.darknet import Darknet53, YoloV3, YoloV3Tiny
from cnnjax.models.darknet_network import create_darknet
from cnnjax.models.densenet import DenseNet, cifar_densenet
from cnnjax.models.dropconnect import DropConnectCNN, DropConnectLocal, DropConnectMLP
from cnnjax.models.face_landmarks import FaceLandmarks
from cnnjax.models.googlenet import GoogLeNet
from cnnjax.models.grid import GridNet, Localizer, SlidingWindow, YoloV1
from cnnjax.models.layers import Trunk, batch_norm
from cnnjax.models.mcdnn import Column
from cnnjax.models.mtcnn import ONet, PNet, RNet
from cnnjax.models.points import HeatmapNet, PointNet
from cnnjax.models.preact_resnet import PreActResNet, cifar_preact_resnet
from cnnjax.models.rcnn import RCNN, resnet_rcnn
from cnnjax.models.resnet import BasicBlock, Bottleneck, ResNet
from cnnjax.models.resnet_cifar import CifarResNet
from cnnjax.models.rows import RowReader
from cnnjax.models.senet import SENet
from cnnjax.models.squeezenet import SqueezeNet
from cnnjax.models.vgg import VGG

Model = nn.Module

MODELS: dict[str, Callable[..., Model]] = {
    # The lecture's first networks
    "softmax_regression": partial(MLP, hidden=()),
    "mlp": MLP,
    "local": LocalNet,
    "lenet5": LeNet5,
    "two_stage": partial(ConvNet, convs=TWO_STAGE),
    "toy_cnn": partial(ConvNet, convs=TOY_CNN),
    "worked_example": partial(ConvNet, convs=WORKED_EXAMPLE),
    "mnist_cnn": partial(ConvNet, convs=MNIST_CNN, hidden=(256,)),
    "mnist_fast": partial(
        ConvNet, convs=MNIST_FAST, hidden=(256,), padding="VALID", kernel_init=uniform_init
    ),
    "sliding_window": SlidingWindow,
    "one_layer_full": partial(OneHiddenLayer, connections="full"),
    "one_layer_local": partial(OneHiddenLayer, connections="local"),
    "one_layer_shared": partial(OneHiddenLayer, connections="shared"),
    # AlexNet and ZFNet
    "alexnet": AlexNet,
    "alexnet_ungrouped": partial(AlexNet, groups=1),
    "alexnet_one_tower": AlexNetOneTower,
    "zfnet": ZFNet,
    "zfnet_wide": partial(ZFNet, features=(96, 256, 512, 1024, 512)),
    "tiny_alexnet": partial(AlexNet, features=(8, 8, 16, 16, 16), hidden=64, grid=1),
    "tiny_alexnet_one_tower": partial(AlexNetOneTower, features=(8, 8, 16, 16, 16), hidden=64, grid=1),
    "tiny_zfnet": partial(ZFNet, features=(8, 8, 16, 16, 16), hidden=64, grid=1),
    # VGG
    "vgg11": partial(VGG, convs=vgg.VGG11),
    "vgg13": partial(VGG, convs=vgg.VGG13),
    "vgg16": partial(VGG, convs=vgg.VGG16),
    "vgg19": partial(VGG, convs=vgg.VGG19),
    "vgg11_bn": partial(VGG, convs=vgg.VGG11, norm=batch_norm),
    "vgg13_bn": partial(VGG, convs=vgg.VGG13, norm=batch_norm),
    "vgg16_bn": partial(VGG, convs=vgg.VGG16, norm=batch_norm),
    "vgg19_bn": partial(VGG, convs=vgg.VGG19, norm=batch_norm),
    "vgg11_cifar": partial(VGG, num_outputs=10, convs=vgg.VGG11, hidden=(), grid=1, norm=batch_norm),
    "vgg16_cifar": partial(VGG, num_outputs=10, convs=vgg.VGG16, hidden=(), grid=1, norm=batch_norm),
    "tiny_vgg": partial(VGG, convs=(1, 2), width=4, hidden=(64, 64), grid=2),
    "tiny_vgg_bn": partial(VGG, convs=(1, 2), width=4, hidden=(64, 64), grid=2, norm=batch_norm),
    # GoogLeNet: the paper's, torchvision's, and Google's own graph
    "googlenet": GoogLeNet,
    "googlenet_aux": partial(GoogLeNet, aux=True),
    "googlenet_bn": partial(GoogLeNet, **googlenet.TORCHVISION),
    "googlenet_bn_aux": partial(GoogLeNet, **googlenet.TORCHVISION, aux=True),
    "inception5h": partial(GoogLeNet, **googlenet.GOOGLE),
    "inception5h_aux": partial(GoogLeNet, **googlenet.GOOGLE, aux=True),
    "tiny_googlenet": partial(GoogLeNet, **googlenet.TINY),
    "tiny_googlenet_bn": partial(GoogLeNet, **(googlenet.TORCHVISION | googlenet.TINY), aux=True),
    # ResNet: v1.5, the paper's v1 (the stride in the first 1x1), and forms for CIFAR
    "resnet18": partial(ResNet, stage_sizes=resnet.RESNET18, block=BasicBlock),
    "resnet34": partial(ResNet, stage_sizes=resnet.RESNET34, block=BasicBlock),
    "resnet50": partial(ResNet, stage_sizes=resnet.RESNET50),
    "resnet101": partial(ResNet, stage_sizes=resnet.RESNET101),
    "resnet152": partial(ResNet, stage_sizes=resnet.RESNET152),
    "resnet50_v1": partial(ResNet, stage_sizes=resnet.RESNET50, block=resnet.BottleneckV1),
    "resnet101_v1": partial(ResNet, stage_sizes=resnet.RESNET101, block=resnet.BottleneckV1),
    "resnet152_v1": partial(ResNet, stage_sizes=resnet.RESNET152, block=resnet.BottleneckV1),
    "resnet18_cifar": partial(
        ResNet, num_outputs=10, stage_sizes=resnet.RESNET18, block=BasicBlock, small_images=True
    ),
    "resnet50_cifar": partial(ResNet, num_outputs=10, stage_sizes=resnet.RESNET50, small_images=True),
    "tiny_resnet18": partial(ResNet, stage_sizes=(1, 2), block=BasicBlock, width=4),
    "tiny_resnet50": partial(ResNet, stage_sizes=(1, 2), block=Bottleneck, width=4),
    # ResNets of the paper for CIFAR: depth 6 * blocks + 2, shortcuts without (A) or with (B) parameters
    "resnet20": partial(CifarResNet, blocks=3),
    "resnet32": partial(CifarResNet, blocks=5),
    "resnet44": partial(CifarResNet, blocks=7),
    "resnet56": partial(CifarResNet, blocks=9),
    "resnet110": partial(CifarResNet, blocks=18),
    "resnet20_b": partial(CifarResNet, blocks=3, option="B"),
    "resnet32_b": partial(CifarResNet, blocks=5, option="B"),
    "resnet44_b": partial(CifarResNet, blocks=7, option="B"),
    "resnet56_b": partial(CifarResNet, blocks=9, option="B"),
    "resnet110_b": partial(CifarResNet, blocks=18, option="B"),
    "tiny_resnet": partial(CifarResNet, blocks=1),
    # Networks of the CIFAR-10 speed runs, and one of 66 MFLOP for two CPU cores
    "airbench_laptop": partial(Airbench, widths=(32, 128, 128)),
    "airbench94": Airbench,
    "airbench95": partial(Airbench, widths=(128, 384, 384), uniform_bias=False, logit_scale=1 / 9),
    "airbench96": partial(
        Airbench, widths=(128, 384, 512), convs=3, bn_momentum=0.9, uniform_bias=False, logit_scale=1 / 9
    ),
    # Grid detectors, by the pixels per cell, and YOLOv1
    "grid8": partial(GridNet, widths=(16, 32, 64), blocks=(0, 1, 2)),
    "grid16": GridNet,
    "localizer": Localizer,
    "grid32": partial(GridNet, widths=(16, 32, 64, 128, 256), blocks=(0, 1, 2, 2, 1)),
    "yolov1": YoloV1,
    # Two-stage detectors; those of COCO_V1 fit the first published weights, whose batch norm has no epsilon
    "fasterrcnn_resnet50_fpn": resnet_rcnn,
    "fasterrcnn_resnet50_fpn_coco_v1": partial(resnet_rcnn, epsilon=0.0),
    "fasterrcnn_resnet101_fpn": partial(resnet_rcnn, resnet.RESNET101),
    "maskrcnn_resnet50_fpn": partial(resnet_rcnn, **rcnn.MASKS),
    "maskrcnn_resnet50_fpn_coco_v1": partial(resnet_rcnn, epsilon=0.0, **rcnn.MASKS),
    "maskrcnn_resnet101_fpn": partial(resnet_rcnn, resnet.RESNET101, **rcnn.MASKS),
    "keypointrcnn_resnet50_fpn": partial(resnet_rcnn, **rcnn.KEYPOINTS),
    "keypointrcnn_resnet50_fpn_coco_v1": partial(resnet_rcnn, epsilon=0.0, **rcnn.KEYPOINTS),
    "keypointrcnn_resnet101_fpn": partial(resnet_rcnn, resnet.RESNET101, **rcnn.KEYPOINTS),
    "maskrcnn_small": partial(RCNN, **rcnn.SMALL),
    # 68 points of a face, with the weights of face-api.js
    "face_landmarks68": FaceLandmarks,
    "face_landmarks68_tiny": partial(FaceLandmarks, features=(32, 64, 128), convs=3, window=14),
    # Points by a fully connected layer, and by heatmaps (simple baseline); a compact one with maps of half of the image
    "point_net": PointNet,
    "heatmaps_resnet18": partial(
        HeatmapNet,
        trunk=partial(ResNet, stage_sizes=resnet.RESNET18, block=BasicBlock),
        trunk_stage="stage4",
    ),
    "heatmaps_resnet50": partial(
        HeatmapNet, trunk=partial(ResNet, stage_sizes=resnet.RESNET50), trunk_stage="stage4"
    ),
    "heatmaps_small": partial(
        HeatmapNet,
        trunk=partial(GridNet, widths=(32, 64, 128), blocks=(1, 1, 3)),
        trunk_stage="head",
        widths=(64, 64),
    ),
    # The three networks of MT-CNN
    "mtcnn_pnet": PNet,
    "mtcnn_rnet": RNet,
    "mtcnn_onet": ONet,
    # Detectors over several scales and the trunk of them; the network of a file FILE.cfg is called darknet:FILE.cfg
    "darknet53": Darknet53,
    "yolov3": YoloV3,
    "yolov3_spp": partial(YoloV3, spp=True),
    "yolov3_tiny": YoloV3Tiny,
    "tiny_darknet53": partial(Darknet53, width=4, blocks=(1, 1, 1, 1, 1)),
    "tiny_yolov3": partial(YoloV3, width=4, blocks=(1, 1, 1, 1, 1)),
    "tiny_yolov3_spp": partial(YoloV3, spp=True, width=4, blocks=(1, 1, 1, 1, 1)),
    "tiny_yolov3_tiny": partial(YoloV3Tiny, width=2),
    # Pre-activation ResNets and wide ResNets
    "preact_resnet18": partial(PreActResNet, stage_sizes=resnet.RESNET18),
    "preact_resnet34": partial(PreActResNet, stage_sizes=resnet.RESNET34),
    "preact_resnet50": partial(PreActResNet, stage_sizes=resnet.RESNET50, bottleneck=True),
    "preact_resnet101": partial(PreActResNet, stage_sizes=resnet.RESNET101, bottleneck=True),
    "preact_resnet152": partial(PreActResNet, stage_sizes=resnet.RESNET152, bottleneck=True),
    "preact_resnet110": partial(cifar_preact_resnet, blocks=18),
    "preact_resnet164": partial(cifar_preact_resnet, blocks=18, bottleneck=True),
    "wrn16_4": partial(cifar_preact_resnet, blocks=2, widen=4),
    "wrn16_8": partial(cifar_preact_resnet, blocks=2, widen=8),
    "wrn40_4": partial(cifar_preact_resnet, blocks=6, widen=4),
    "wrn28_10": partial(cifar_preact_resnet, blocks=4, widen=10),
    "wrn28_10_dropout": partial(cifar_preact_resnet, blocks=4, widen=10, dropout=0.3),
    "tiny_preact_resnet": partial(PreActResNet, stage_sizes=(1, 1), features=(4, 6), bottleneck=True),
    "tiny_wrn": partial(cifar_preact_resnet, blocks=1, features=(4, 8, 8), dropout=0.3),
    # DenseNet: for ImageNet all with bottleneck and compression; for CIFAR with (bc) and without
    "densenet121": partial(DenseNet, blocks=densenet.DENSENET121),
    "densenet169": partial(DenseNet, blocks=densenet.DENSENET169),
    "densenet201": partial(DenseNet, blocks=densenet.DENSENET201),
    "densenet264": partial(DenseNet, blocks=densenet.DENSENET264),
    "densenet161": partial(DenseNet, blocks=densenet.DENSENET161, growth=48, stem=96),
    "densenet40_12": partial(cifar_densenet, layers=12, growth=12, bc=False),
    "densenet100_12": partial(cifar_densenet, layers=32, growth=12, bc=False),
    "densenet_bc100_12": partial(cifar_densenet, layers=16, growth=12),
    "densenet_bc250_24": partial(cifar_densenet, layers=41, growth=24),
    "densenet_bc190_40": partial(cifar_densenet, layers=31, growth=40),
    "tiny_densenet": partial(DenseNet, blocks=(2, 1), growth=4, stem=8, dropout=0.2),
    # Squeeze and excitation
    "se_resnet50": partial(SENet, stage_sizes=resnet.RESNET50),
    "se_resnet101": partial(SENet, stage_sizes=resnet.RESNET101),
    "se_resnet152": partial(SENet, stage_sizes=resnet.RESNET152),
    "senet154": partial(SENet, stage_sizes=resnet.RESNET152, wide=True),
    "tiny_se_resnet": partial(SENet, stage_sizes=(1, 1), width=4, reduction=4),
    "tiny_senet": partial(SENet, stage_sizes=(1, 1), width=4, reduction=4, wide=True),
    # Without fully connected layers
    "squeezenet1_0": SqueezeNet,
    "squeezenet1_0_caffe": partial(SqueezeNet, conv10_padding=1),
    "squeezenet1_1": partial(SqueezeNet, stem=(64, 3), pool_after=(1, 3, 5)),
    "tiny_squeezenet": partial(SqueezeNet, stem=(8, 7), fires=((4, 8), (6, 16)), pool_after=(1, 2)),
    "nin": NetworkInNetwork,
    "nin_imagenet": partial(NetworkInNetwork, num_outputs=1000, **allconv.NIN_IMAGENET),
    "tiny_nin": partial(NetworkInNetwork, stages=allconv.TINY_NIN),
    "all_cnn": AllCNN,
    "tiny_all_cnn": partial(AllCNN, features=(32, 32)),
    # Multi-column networks and DropConnect
    "mcdnn_mnist": partial(Column, convs=mcdnn.MNIST),
    "mcdnn_nist": partial(Column, num_outputs=62, convs=mcdnn.MNIST),
    "mcdnn_gtsrb": partial(Column, num_outputs=43, convs=mcdnn.GTSRB, hidden=(300,)),
    "mcdnn_cifar10": partial(Column, convs=mcdnn.CIFAR10, hidden=(300, 100)),
    "mcdnn_chinese": partial(Column, num_outputs=3755, convs=mcdnn.CHINESE, hidden=(500,)),
    "tiny_mcdnn": partial(Column, convs=((4, 4, 2), (5, 5, 3)), hidden=(12,)),
    "dropconnect_mlp": DropConnectMLP,
    "dropconnect_mnist": DropConnectCNN,
    "dropconnect_cifar10": DropConnectLocal,
    "dropconnect_svhn": partial(DropConnectLocal, hidden=512),
    "tiny_dropconnect": partial(DropConnectLocal, features=(8, 8, 8, 8), hidden=64),
    # Recurrent networks that read rows
    "lstm_rows": RowReader,
    "gru_rows": partial(RowReader, cell="gru"),
}


def create_model(
    name: str, num_outputs: int | None = None, dtype: str = "float32", options: Sequence[str] = ()
) -> Model:
    """A model of the table: a linen module with `init(key, x)` and `apply(variables, x, train=...)`.

    Weights are float32; `dtype` is what the layers compute in. Without `num_outputs` the model has as many as its
    paper. `options` set fields of the module: "width=32"; of a tuple "widths=8/16/32". Raises ConfigError if the
    table has no such name, or the module no such field. "darknet:FILE.cfg" is the network of that file.
    """
    if not name.startswith(CFG_FILE) and name not in MODELS:
        hint = did_you_mean(name, MODELS, f"choose one of {', '.join(MODELS)}")
        raise ConfigError(f"no model is called {name!r}: {hint}")
    outputs = {} if num_outputs is None else {"num_outputs": num_outputs}
    create = create_darknet(name) if name.startswith(CFG_FILE) else MODELS[name]
    model = create(**outputs, dtype=jnp.dtype(dtype))
    return model.clone(**dict(_option(model, name, text) for text in options)) if options else model


def create_trunk(name: str, dtype: str = "float32", options: Sequence[str] = ()) -> Trunk:
    """A model of the table that gives its named stages, without its last layer; raises ConfigError as above, and for
    models that have no such form."""
    model = create_model(name, dtype=dtype, options=options)
    if type(None) not in typing.get_args(typing.get_type_hints(type(model))["num_outputs"]):
        raise ConfigError(f"model {name!r} has no form as a trunk, without its last layer")
    return Trunk(model.clone(num_outputs=None))


_FIXED = ("num_outputs", "dtype", "parent", "name")  # what is said elsewhere


def _option(model: Model, model_name: str, text: str) -> tuple[str, Any]:
    """Name and value of "width=32", of the type of the field's value; ConfigError if the model has no such field."""
    name, equals, value = text.partition("=")
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    fields = {key: old for key, old in fields.items() if key not in _FIXED and _can_be_said(old)}
    if name not in fields or not equals:
        known = ", ".join(fields) or "none"
        raise ConfigError(
            f"model.options: {text!r} is no NAME=VALUE of {model_name}, whose fields are {known}"
        )
    old = fields[name]
    try:
        if isinstance(old, tuple):
            return name, tuple(_of_type(type(old[0]), part) for part in value.split("/"))
        return name, _of_type(type(old), value)
    except ValueError as error:
        raise ConfigError(f"model.options: {text!r}: {name} is like {old!r}") from error


def _can_be_said(value: Any) -> bool:
    plain = (bool, int, float, str)
    return isinstance(value, plain) or (
        isinstance(value, tuple) and value != () and isinstance(value[0], plain)
    )


def _of_type(kind: type, text: str) -> Any:
    if kind is not bool:
        return kind(text)
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"
