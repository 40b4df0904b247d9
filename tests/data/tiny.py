"""Writers of tiny datasets in the formats that the sources read, from the descriptions of these formats."""

import gzip
import io
import json
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx(array):
    """http://yann.lecun.com/exdb/mnist: magic number, sizes as big-endian int32, bytes."""
    return struct.pack(f">{1 + array.ndim}i", 0x800 + array.ndim, *array.shape) + array.tobytes()


def mnist(train, test):
    """File name -> content, of (images [N, H, W], labels [N]) pairs."""
    return {
        f"{part}-{kind}-ubyte.gz": gzip.compress(idx(array))
        for part, arrays in (("train", train), ("t10k", test))
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays, strict=True)
    }


def emnist(config, train, test):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for part, arrays in (("train", train), ("test", test)):
            for kind, array in zip(("images-idx3", "labels-idx1"), arrays, strict=True):
                archive.writestr(f"gzip/emnist-{config}-{part}-{kind}-ubyte.gz", gzip.compress(idx(array)))
    return content.getvalue()


def cifar(files):
    """A .tar.gz with one folder holding the files: name -> bytes."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"cifar-binary/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def cifar_records(images, *labels):
    """One record per image: its labels, then the red, the green and the blue plane."""
    records = b""
    for index, image in enumerate(images):
        records += bytes(int(label[index]) for label in labels)
        records += b"".join(image[:, :, channel].tobytes() for channel in range(3))
    return records


def encode(image, format="PNG"):
    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, format)
    return content.getvalue()


def prepared(data_dir, name, splits, num_classes, shape, label_feature="label"):
    """What `tfds build --file_format=array_record` leaves: splits map a name to (encoded images, labels)."""
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_generated_pb2 as example_pb2
    from tensorflow_datasets.proto import tf_feature_generated_pb2 as feature_pb2

    folder = data_dir / name / "1.0.0"
    folder.mkdir(parents=True)
    module = "tensorflow_datasets.core.features"
    features = {
        "image": {
            "pythonClassName": f"{module}.image_feature.Image",
            "image": {"dtype": "uint8", "shape": {"dimensions": [str(size) for size in shape]}},
        },
        label_feature: {
            "pythonClassName": f"{module}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(num_classes)},
        },
    }
    described = {
        "pythonClassName": f"{module}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    (folder / "features.json").write_text(json.dumps(described))
    names = "\n".join(f"class {index}" for index in range(num_classes))
    (folder / f"{label_feature}.labels.txt").write_text(names)
    for split, (images, labels) in splits.items():
        writer = array_record_module.ArrayRecordWriter(
            str(folder / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        for image, label in zip(images, labels, strict=True):
            values = {
                "image": feature_pb2.Feature(bytes_list=feature_pb2.BytesList(value=[image])),
                label_feature: feature_pb2.Feature(int64_list=feature_pb2.Int64List(value=[int(label)])),
            }
            example = example_pb2.Example(features=feature_pb2.Features(feature=values))
            writer.write(example.SerializeToString())
        writer.close()
    describe(folder, name, "1.0.0", {split: len(labels) for split, (_, labels) in splits.items()})
    return folder


def prepared_boxes(data_dir, name, features, splits, version="1.0.0"):
    """What `tfds build --file_format=array_record` leaves of these features, encoded and described by their own code.

    name: with a configuration, such as "voc/2007". splits map a name to examples, whose images are encoded.
    """
    from array_record.python import array_record_module
    from tensorflow_datasets.core import example_serializer

    folder = data_dir / name / version
    folder.mkdir(parents=True)
    features.save_config(str(folder))
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    dataset, _, config = name.partition("/")
    for split, examples in splits.items():
        path = folder / f"{dataset}-{split}.array_record-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for example in examples:
            encoded = features.encode_example({**example, "image": io.BytesIO(example["image"])})
            writer.write(serializer.serialize_example(encoded))
        writer.close()
    describe(folder, dataset, version, {split: len(examples) for split, examples in splits.items()}, config)
    return folder


def describe(folder, name, version, counts, config=""):
    info = {"name": name, "version": version, "fileFormat": "array_record", "configName": config}
    info["splits"] = [
        {
            "name": split,
            "shardLengths": [str(count)],
            "numBytes": "1",
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }
        for split, count in counts.items()
    ]
    (folder / "dataset_info.json").write_text(json.dumps(info))
