"""The table of all models: complete, and with the numbers that papers and a trace of the models have."""

import csv

import pytest

from cnnjax.inspect.models import counted
from cnnjax.models import MODELS, create_model
from cnnjax.models.catalogue import COSTS, FAMILIES, family
from cnnjax.weights import names

QUICK = ("lenet5", "mlp", "resnet18", "squeezenet1_0", "yolov3_tiny", "mtcnn_onet", "wrn16_4", "point_net")
NOT_LOOKED_INTO = {"lstm_rows", "gru_rows"}


def test_every_model_has_a_row(launch, tmp_path):
    result = launch("--mode=models", f"--output={tmp_path / 'models.csv'}")
    assert result.code == 0, result.err
    lines = {line.split()[0]: line for line in result.out.splitlines()}
    assert set(MODELS) <= set(lines)
    assert "25,557,032" in lines["resnet50"] and lines["resnet50"].split()[3:] == [
        "224x224x3",
        "torchvision;",
        "timm",
    ]
    with open(tmp_path / "models.csv", newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(MODELS) and rows["alexnet"]["input"] == "227x227x3"
    assert "no effect" in launch("--mode=models", "--workdir=x").err


def test_what_was_counted_is_what_others_count():
    """Parameters of torchvision's pages; multiply-adds of the same, to three digits, and of darknet's (half its FLOPs)."""
    billions = {
        "resnet18": 1.81, "resnet34": 3.66, "resnet50": 4.09, "resnet101": 7.80, "resnet152": 11.51, "vgg11": 7.61,
        "vgg16": 15.47, "vgg19": 19.63, "densenet121": 2.83, "alexnet_one_tower": 0.71, "squeezenet1_0": 0.82,
        "squeezenet1_1": 0.35, "googlenet_bn": 1.50, "yolov3": 65.86 / 2, "yolov3_spp": 141.45 / 2,
        "yolov3_tiny": 5.56 / 2, "darknet53": 18.57 / 2,
    }  # fmt: skip
    for name, wanted in billions.items():
        assert COSTS[name][1] / 1e9 == pytest.approx(wanted, abs=0.011), name
    parameters = {
        "resnet50": 25_557_032,
        "vgg16": 138_357_544,
        "densenet121": 7_978_856,
        "maskrcnn_resnet50_fpn": 44_401_393,
    }
    assert {name: COSTS[name][0] for name in parameters} == parameters
    # of each row four gates, from 28 pixels and 128 states; 10 classes
    lstm = 28 * 4 * (28 + 128) * 128 + 128 * 10
    assert COSTS["lstm_rows"][1] == lstm


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in MODELS if n not in {*QUICK, *NOT_LOOKED_INTO})]
)  # fmt: skip
def test_what_is_written_is_what_is_counted(name):
    assert COSTS.get(name, counted(name)) == counted(name)


def test_no_row_is_left_over():
    assert set(COSTS) <= set(MODELS)
    used = {family(name).names for name in MODELS}
    assert [one.names for one in FAMILIES if one.names not in used] == []


@pytest.mark.parametrize("name", [n for n in MODELS if family(n).published and not n.startswith("darknet")])
def test_weights_that_are_published_can_be_read(name):
    """Of each such model the names of its layers in the files are known."""
    model, published = create_model(name), family(name).published
    known = {
        "Keras": names.keras_names, "torchvision": names.torch_names, "Caffe": names.caffe_names, "Google": names.tensorflow_names,
    }  # fmt: skip
    readers = [function for word, function in known.items() if word in published]
    if not names.is_darknet_model(model):
        assert all(function(model, []) is not None for function in readers), name
        assert any(function(model, []) is not None for function in known.values()), name
