"""Configuration files: what is read, and what is refused in one line that names section and line."""

import cfgs
import jax
import jax.numpy as jnp
import pytest

from cnnjax.config import ConfigError
from cnnjax.models import create_model
from cnnjax.models.darknet_cfg import Convolution, Route, Yolo, parse_cfg

START = "[net]\nheight=64\nwidth=64\nchannels=3\n"
CONV = "[convolutional]\nfilters=4\nsize=3\npad=1\nactivation=leaky\n"


def test_a_section_in_dataclasses():
    text = (
        START
        + "# a comment\n[convolutional]\nfilters = 4 ; another\nsize=5\nstride=2\npad=1\nbatch_normalize=1\n"
    )
    network = parse_cfg(text + "activation=mish\n[route]\nlayers=-1\ngroups=2\ngroup_id=1\n")
    assert (network.net.height, network.net.width, network.net.channels) == (64, 64, 3)
    assert network.layers == (Convolution(4, 5, 2, 2, 1, True, "mish"), Route((0,), 2, 1))
    assert network.features == (4, 2)


def test_a_head_in_dataclasses():
    text = cfgs.yolov4_tiny()
    yolo = parse_cfg(text).yolos[1]
    assert isinstance(yolo, Yolo)
    assert (yolo.mask, yolo.scale_x_y, yolo.new_coords, yolo.classes) == ((1, 2, 3), 1.05, False, 80)
    assert yolo.anchors[0] == (10, 14) and yolo.anchors[5] == (344, 319)
    with_new = text.replace("scale_x_y=1.05", "scale_x_y=2.0\nnew_coords=1")
    assert parse_cfg(with_new).yolos[0].new_coords


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first section must be [net], and is missing"),
        (CONV, "the first section must be [net], and is [convolutional] in line 1"),
        (START, "there is no layer after [net]"),
        ("filters=3\n", "line 1: 'filters=3' is neither"),
        (START + "what is this\n", "line 5: 'what is this' is neither"),
        (START.replace("height=64", "height=0"), "line 2, [net]: height=0 must be 1 to"),
        (START.replace("height=64\n", ""), "line 1, [net]: height is missing"),
        (START + CONV + "[crnn]\n", "line 10, [crnn]: this section is not known; known are convolutional"),
        (START + CONV.replace("filters=4", "filters=-4"), "line 6, [convolutional]: filters=-4 must be 1"),
        (START + CONV.replace("size=3", "size=99999999"), "line 7, [convolutional]: size=99999999 must be"),
        (START + CONV.replace("filters=4", "filters=x"), "filters=x is no whole number"),
        (START + CONV.replace("leaky", "gelu"), "line 9, [convolutional]: activation=gelu is not known"),
        (START + CONV + "dilation=2\n", "[convolutional]: dilation cannot be built"),
        (START + CONV + "groups=3\n", "groups=3 do not divide 3 channels into filters=4"),
        (START + CONV + "fitlers=3\n", "line 10, [convolutional]: fitlers=3 is not known here"),
        (START + CONV + "[route]\nlayers=1\n", "line 11, [route]: layers=1 is no earlier layer of layer 1"),
        (START + CONV + "[route]\nlayers=-2\n", "layers=-2 is no earlier layer of layer 1"),
        (START + CONV + "[shortcut]\nfrom=7\n", "from=7 is no earlier layer of layer 1"),
        (START + CONV + "[route]\nlayers=-1\ngroups=3\n", "line 10, [route]: groups=3 do not divide [4]"),
        (START + CONV + CONV.replace("4", "5") + "[shortcut]\nfrom=-2\n", "layers of 5 and [4] channels"),
        (START + CONV + "[dropout]\nprobability=1\n", "probability=1 must be at least 0 and below 1"),
        (START + CONV + "[yolo]\nmask=0\nanchors=1,2,3\nnum=2\nclasses=1\n", "num=2 anchors need 4 positive"),
        (START + CONV + "[yolo]\nmask=2\nanchors=1,2,3,4\nnum=2\nclasses=1\n", "mask must name anchors 0 to 1"),
        (
            START + CONV + "[yolo]\nmask=0,1\nanchors=1,2,3,4\nnum=2\nclasses=3\n",
            "2 anchors with classes=3 need filters=16 in the layer before, which has 4",
        ),
        (cfgs.yolov3_tiny(2).replace(cfgs.TINY, "1,2, 3,4, 5,6, 7,8, 9,9, 8,8", 1), "must agree on their anchors"),
    ],
)  # fmt: skip
def test_mistakes_in_one_line(text, message):
    with pytest.raises(ConfigError) as error:
        parse_cfg(text, "my.cfg")
    assert message in str(error.value)
    assert str(error.value).startswith("my.cfg") and "\n" not in str(error.value)


def test_maps_of_different_sizes_are_refused(tmp_path):
    path = tmp_path / "net.cfg"
    path.write_text(START + CONV + CONV + "stride=2\n[route]\nlayers=-1,-2\n")
    with pytest.raises(
        ConfigError, match="layer 2 of the darknet network: .* different sizes, 32x32 and 64x64"
    ):
        jax.eval_shape(create_model(f"darknet:{path}").init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def test_classes_of_the_file_and_of_the_data_must_agree(tmp_path):
    path = tmp_path / "net.cfg"
    path.write_text(cfgs.yolov3_tiny(2))
    assert create_model(f"darknet:{path}").num_outputs == 255
    with pytest.raises(ConfigError, match="classes=80, the data 3: set classes=3 there and filters=24"):
        create_model(f"darknet:{path}", 24)


@pytest.mark.parametrize("classes", [3, 10, 80, 1000])
def test_a_detector_of_a_task_without_boxes_names_the_task(tmp_path, classes):
    path = tmp_path / "net.cfg"
    path.write_text(cfgs.yolov3_tiny(2))
    with pytest.raises(
        ConfigError, match=f"255 outputs, for boxes; {classes} are wanted: .*multiscale_detection"
    ):
        create_model(f"darknet:{path}", classes)


@pytest.mark.parametrize("name", ["missing.cfg", "."])
def test_files_that_cannot_be_read(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be read as a darknet configuration"):
        create_model(f"darknet:{tmp_path / name}")
