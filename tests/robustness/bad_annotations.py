"""Annotations of boxes: COCO's json, VOC's xml, YOLO's txt. Single bad boxes are reported, bad files refused."""

import json

import numpy as np
import pytest
from case import Case, colour, edit_json, write

FLAGS = "--mode=prepare --data.name={}:in --output=out"
COCO, VOC, YOLO = (FLAGS.format(kind) for kind in ("coco", "voc", "yolo"))
TRAIN = "--experiment=scenes_grid --data.name={}:in --data.image_size=64 --train.steps=1 --workdir=new"
JSON = "in/annotations/instances_train.json"
BOX = [4, 2, 6, 8]  # of an image of 20x16


def boxes(*counts, classes=None, problems=(), lost="", images=()):
    """So many boxes are left in the two splits, the first of them BOX; each problem was told of on stderr.

    A line of its own begins with what was `lost`, if anything was; `images`: how many are left in the splits.
    """

    def check(folder, result):
        about = json.loads((folder / "out/dataset.json").read_text())
        if classes is not None:
            assert about["classes"] == list(classes)
        found = [np.load(folder / f"out/{split}.npz") for split in ("train", "test")]
        assert [int(one["valid"].sum()) for one in found] == list(counts)
        if counts[0]:
            assert found[0]["boxes"][0, 0] == pytest.approx([4, 2, 10, 10])
        assert not images or [len(one["valid"]) for one in found] == list(images)
        lines = result.err.splitlines()
        words = [line for line in lines if line.startswith("warning: left out")]
        assert len(words) == bool(lost) and all(lost in word for word in words)
        told = [line for line in lines if line not in words]
        assert len(told) == len(problems), told
        for line, problem in zip(told, problems, strict=True):
            assert [part for part in problem.split(" ... ") if part not in line] == []

    return check


def coco_entry(**changes):
    return {"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX} | changes


def coco_tree():
    return {
        "images": [{"id": 1, "file_name": "1.png", "width": 20, "height": 16}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [coco_entry()],
    }


def coco(change=lambda tree: None):
    """A set of one image and one box in each split, the training split changed."""

    def make(folder):
        for split in ("train", "test"):
            write(folder / f"in/images/{split}/1.png", colour(9, (20, 16)))
            write(folder / f"in/annotations/instances_{split}.json", json.dumps(coco_tree()))
        edit_json(folder / JSON, change)

    return make


def coco_with_masks():
    return both(lambda tree: tree["annotations"][0].update(segmentation=[[4, 2, 10, 2, 10, 10, 4, 10]]))


def coco_with(*entries):
    return coco(lambda tree: tree["annotations"].extend(entries))


def coco_image(**changes):
    return coco(lambda tree: tree["images"][0].update(changes))


def coco_text(change):
    """The text of the json, changed as bytes."""

    def make(folder):
        coco()(folder)
        (folder / JSON).write_bytes(change((folder / JSON).read_bytes()))

    return make


ONE_OF_THREE = "left out 1 of 3 objects ("  # two boxes are as they should be; who keeps three clipped one


def one_problem(left, place, problem):
    return boxes(left, 1, problems=[f"{place}: ... {problem}"], lost=ONE_OF_THREE if left == 1 else "")


def reported(name, entry, problem, left=1):
    return Case(f"coco_{name}", COCO, one_problem(left, f"{JSON}, annotations[1]", problem), coco_with(entry))


def both(change):
    def make(folder):
        coco()(folder)
        for split in ("train", "test"):
            edit_json(folder / f"in/annotations/instances_{split}.json", change)

    return make


def ids(image, category, annotation):
    def change(tree):
        tree["images"][0]["id"] = image
        tree["categories"] = [
            {"id": category, "name": "cat"},
            {"id": type(category)(int(category) + 70), "name": "dog"},
        ]
        tree["annotations"] = [coco_entry(id=annotation, image_id=image, category_id=category)]

    return change


def missing(tree):
    """Two images that are not there before the one that is; the first has a box."""
    tree["images"] = [tree["images"][0] | {"id": 7 + i, "file_name": f"gone{i}.png"} for i in (0, 1)] + tree[
        "images"
    ]
    tree["annotations"].append(coco_entry(image_id=7))


def remove(table, key):
    return lambda tree: tree[table][0].pop(key)


def twice(table):
    return lambda tree: tree[table].append(tree[table][0])


NAN, INFINITY = float("nan"), float("inf")
LEADS_OUT = "leads out of the image folder"
COCO_CASES = [
    Case("coco_ids_from_0", COCO, boxes(1, 1, classes=("cat", "dog")), both(ids(0, 0, 0))),
    Case("coco_ids_with_gaps", COCO, boxes(1, 1, classes=("cat", "dog")), both(ids(10**12, 17, -4))),
    Case("coco_byte_order_mark", COCO, boxes(1, 1), coco_text(lambda text: b"\xef\xbb\xbf" + text)),
    Case("coco_same_annotation_id_twice", COCO, boxes(2, 1), coco_with(coco_entry())),
    Case("coco_without_annotations", COCO, boxes(0, 1), coco(lambda tree: tree.pop("annotations"))),
    Case("coco_no_boxes", COCO, boxes(0, 1), coco(lambda tree: tree.update(annotations=[]))),
    Case("coco_area_of_nan", COCO, boxes(2, 1), coco_with(coco_entry(area=NAN))),
    Case("coco_area_below_0", COCO, boxes(2, 1), coco_with(coco_entry(area=-5))),
    reported("unknown_class", coco_entry(category_id=8), "unknown class 8"),
    reported("class_of_letters", coco_entry(category_id="cat"), "unknown class 'cat'"),
    reported("class_of_another_type", coco_entry(category_id=True), "unknown class True"),
    reported("image_between_two", coco_entry(image_id=1.5), "no image has the id 1.5"),
    reported("box_missing_with_a_mask", coco_entry(bbox=[], segmentation={"counts": [1, 2]}), "bbox [] is not four"),
    reported("box_missing_with_a_line", coco_entry(bbox=[], segmentation=[[1, 2, 3, 4]]), "bbox [] is not four"),
    Case("coco_ids_as_texts", COCO, boxes(1, 1, classes=("cat", "dog")), both(ids("7", "10", "3"))),
    Case("coco_ids_with_fractions", COCO, boxes(1, 1, classes=("cat", "dog")), both(ids(2.0, 1.0, 0.0))),
    Case("coco_every_box_lost", COCO, "no images ... left out 1 of 1 objects (no inside: 1) and 1 of 1 images (no object left: 1) ... annotations[0]", coco(
        lambda tree: tree["annotations"][0].update(bbox=[0, 0, -1, 1]))),
    Case("coco_box_of_a_polygon", COCO, boxes(1, 1), coco(lambda tree: tree["annotations"][0].update(
        bbox=[], segmentation=[[4, 2, 10, 6, 5, 10]]))),
    Case("coco_size_of_0", COCO, boxes(1, 1), coco_image(width=0, height=0)),
    reported("no_class", {"image_id": 1, "bbox": BOX}, "no class"),
    reported("unknown_image", coco_entry(image_id=5), "no image has the id 5"),
    reported("box_missing", {"image_id": 1, "category_id": 1}, "bbox None is not four numbers"),
    reported("box_of_three", coco_entry(bbox=[1, 2, 3]), "not four numbers"),
    reported("box_of_texts", coco_entry(bbox=["1", "2", "3", "4"]), "not four numbers"),
    reported("box_of_nan", coco_entry(bbox=[NAN, 2, 3, 4]), "not finite"),
    reported("box_of_infinity", coco_entry(bbox=[1, 2, INFINITY, 4]), "not finite"),
    reported("box_of_huge_numbers", coco_entry(bbox=[1, 2, 10**400, 4]), "not four numbers"),
    reported("box_of_large_numbers", coco_entry(bbox=[0, 0, 1e300, 1e300]), "clipped", left=2),
    reported("box_without_inside", coco_entry(bbox=[1, 2, 0, 4]), "no inside"),
    reported("box_of_negative_size", coco_entry(bbox=[9, 9, -4, -4]), "no inside"),
    reported("box_outside", coco_entry(bbox=[50, 2, 3, 4]), "outside the image of 20x16"),
    reported("box_partly_outside", coco_entry(bbox=[15, 2, 30, 4]), "clipped", left=2),
    reported("annotation_of_another_type", 17, "not an object"),
    Case("coco_path_above", COCO, LEADS_OUT, coco_image(file_name="../../1.png")),
    Case("coco_path_absolute", COCO, LEADS_OUT, coco_image(file_name="/etc/passwd")),
    Case("coco_path_of_windows", COCO, LEADS_OUT, coco_image(file_name="..\\1.png")),
    Case("coco_path_above_by_a_detour", COCO, LEADS_OUT, coco_image(file_name="a/../../1.png")),
    Case("coco_path_with_a_drive", COCO, LEADS_OUT, coco_image(file_name="C:\\1.png")),
    Case("coco_path_empty", COCO, LEADS_OUT, coco_image(file_name="")),
    Case("coco_path_with_zero_byte", COCO, "is no name of a file", coco_image(file_name="1\0.png")),
    Case("coco_path_of_half_a_letter", COCO, "is no name of a file", coco_image(file_name="\ud800.png")),
    Case("coco_path_of_5000_letters", COCO, "aaa: no such file", coco_image(file_name="a" * 5000)),
    Case("coco_path_of_a_folder", COCO, "train: Is a directory", coco_image(file_name=".")),
    Case("coco_path_with_line_feed", COCO, "1 .png: no such file", coco_image(file_name="1\n.png")),
    Case("coco_image_missing", COCO, "in: no images ... in/2.png: no such file", coco_image(file_name="2.png")),
    Case("coco_image_missing_in_training", TRAIN.format("coco"), "2.png: no such file", coco_image(file_name="2.png")),
    Case("coco_images_missing_among_others", COCO, boxes(
        1, 1, problems=["in/images/train/gone0.png: no such file, like 1 more of 3: left out"],
        lost="left out 2 of 4 images (missing image: 2)"), coco(missing)),
    Case("coco_image_of_another_size", COCO, "1.png is 20x16, its annotation says 20x17", coco_image(height=17)),
    Case("coco_image_of_another_size_in_training", TRAIN.format("coco"), "1.png ... 20x16 ... 20x17", coco_image(height=17)),
    Case("coco_image_of_no_size", COCO, "1.png has the size 0 x 16", coco_image(width=0)),
    Case("coco_image_of_nan", COCO, "1.png has the size nan x 16", coco_image(width=NAN)),
    Case("coco_image_of_huge_size", COCO, "has the size 100000000000000000000 x 16", coco_image(width=10**20)),
    Case("coco_image_size_missing", COCO, "1.png has the size 0 x 16", coco(remove("images", "width"))),
    Case("coco_image_name_missing", COCO, LEADS_OUT, coco(remove("images", "file_name"))),
    Case("coco_image_id_missing", COCO, "images[0] has no id", coco(remove("images", "id"))),
    Case("coco_category_id_missing", COCO, "categories[0] has no id", coco(remove("categories", "id"))),
    Case("coco_image_id_twice", COCO, "images[1] has the id 1 of another", coco(twice("images"))),
    Case("coco_category_id_twice", COCO, "categories[1] has the id 1 of another", coco(twice("categories"))),
    Case("coco_images_missing", COCO, "lacks images or categories", coco(lambda tree: tree.pop("images"))),
    Case("coco_images_of_another_type", COCO, "images is not a list", coco(lambda tree: tree.update(images=3))),
    Case("coco_no_images", COCO, "no images", coco(lambda tree: tree.update(images=[], annotations=[]))),
    Case("coco_other_classes_in_test", COCO, "different classes", coco(lambda tree: tree["categories"][0].update(name="dog"))),
    Case("coco_other_document", COCO, "not COCO's format", coco_text(lambda text: b"[1]")),
    Case("coco_cut", COCO, "not valid JSON", coco_text(lambda text: text[:-20])),
    Case("coco_empty", COCO, "the file is empty", coco_text(lambda text: b"")),
    Case("coco_not_text", COCO, "not a text file in UTF-8", coco_text(lambda text: b"\xff\xfe" + text)),
    Case("coco_nested_without_end", COCO, "not valid JSON", coco_text(lambda text: b"[" * 10**5)),
    Case("coco_number_of_a_million_digits", COCO, "not valid JSON", coco_text(lambda text: b"1" * 10**6)),
    Case("coco_json_missing", COCO, "in: no training split, but test",
         lambda folder: (coco()(folder), (folder / JSON).unlink())),
    Case("coco_no_folder", COCO, "no folder in"),
    Case("coco_no_images_folder", COCO, "in: no coco annotations in a layout that is known", lambda folder: write(folder / "in/a", b"")),
]  # fmt: skip


VOC_TEXT = """<annotation><size><width>20</width><height>16</height></size>
<object><name>cat</name><bndbox><xmin>5</xmin><ymin>3</ymin><xmax>10</xmax><ymax>10</ymax></bndbox></object>
{}</annotation>"""


def voc(text=None, more="", listed="1\n", names=("1",)):
    def make(folder):
        for name in (*names, "2"):
            write(folder / f"in/JPEGImages/{name}.png", colour(9, (20, 16)))
            write(folder / f"in/Annotations/{name}.xml", VOC_TEXT.format(""))
        write(folder / "in/Annotations/1.xml", VOC_TEXT.format(more) if text is None else text)
        write(folder / "in/ImageSets/Main/train.txt", listed)
        write(folder / "in/ImageSets/Main/val.txt", "2\n")

    return make


def voc_object(name="cat", corners=(5, 3, 10, 10)):
    tags = "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name><bndbox>{tags}</bndbox></object>\n"


def voc_reported(name, more, problem, left=1):
    return Case(
        f"voc_{name}", VOC, one_problem(left, "in/Annotations/1.xml, line 3", problem), voc(more=more)
    )


LAUGHS = "<!DOCTYPE a [<!ENTITY l0 'ha'>" + "".join(
    f"<!ENTITY l{i + 1} '{f'&l{i};' * 10}'>" for i in range(10)
)
REFUSED = "1.xml, line 1: DOCTYPE and entities are refused"
VOC_CASES = [
    Case("voc_billion_laughs", VOC, REFUSED, voc(LAUGHS + "]><annotation>&l10;</annotation>")),
    Case("voc_external_entity", VOC, REFUSED, voc(
        "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><annotation>&x;</annotation>")),
    Case("voc_external_doctype", VOC, REFUSED, voc("<!DOCTYPE a SYSTEM 'http://localhost/x.dtd'><annotation/>")),
    Case("voc_parameter_entity", VOC, REFUSED, voc("<!DOCTYPE a [<!ENTITY % x 'y'> %x;]><annotation/>")),
    voc_reported("box_without_inside", voc_object(corners=(5, 5, 5, 9)), "no inside"),
    voc_reported("box_of_negative_size", voc_object(corners=(9, 9, 5, 5)), "no inside"),
    voc_reported("box_of_nan", voc_object(corners=("nan", 5, 9, 9)), "not finite"),
    voc_reported("box_of_infinity", voc_object(corners=(1, 5, "inf", 9)), "not finite"),
    voc_reported("box_of_text", voc_object(corners=("x", 5, 9, 9)), "not four numbers"),
    voc_reported("box_missing", "<object><name>cat</name></object>", "not four numbers"),
    voc_reported("box_outside", voc_object(corners=(50, 5, 90, 9)), "outside"),
    voc_reported("box_partly_outside", voc_object(corners=(10, 5, 90, 9)), "clipped", left=2),
    voc_reported("no_class", voc_object(name=""), "no class"),
    Case("voc_class_called_like_a_path", VOC, boxes(2, 1, classes=("../../x", "cat")), voc(more=voc_object("../../x"))),
    Case("voc_file_name_is_not_followed", VOC, boxes(1, 1), voc(more="<filename>../../secret.png</filename>")),
    Case("voc_cut", VOC, boxes(
        1, 1, problems=["1.xml, line 2: not valid xml"], images=(1, 1), lost="1 of 3 images (not valid xml: 1)"), voc(
        VOC_TEXT[:90], listed="1\n3\n", names=("1", "3"))),
    Case("voc_every_file_cut", VOC, "no images", voc(VOC_TEXT[:90])),
    Case("voc_size_missing", VOC, "no images", voc("<annotation/>")),
    Case("voc_size_negative", VOC, "no images", voc(VOC_TEXT.format("").replace(">20<", ">-20<"))),
    Case("voc_size_of_5000_digits", VOC, "no images", voc(VOC_TEXT.format("").replace(">20<", f">{'9' * 5000}<"))),
    Case("voc_size_beyond_32_bits", VOC, "no images", voc(VOC_TEXT.format("").replace(">20<", ">99999999999<"))),
    Case("voc_size_of_another_image", VOC, "1.png is 20x16, its annotation says 21x16", voc(
        VOC_TEXT.format("").replace(">20<", ">21<"))),
    Case("voc_unknown_encoding", VOC, boxes(1, 1), voc("<?xml version='1.0' encoding='x-none'?>" + VOC_TEXT.format(""))),
    Case("voc_not_text", VOC, "1.xml: not a text file in UTF-8", voc(b"\xff\xfe<annotation/>")),
    Case("voc_byte_order_mark", VOC, boxes(1, 1), voc("\ufeff" + VOC_TEXT.format(""))),
    Case("voc_nested_without_end", VOC, "no images", voc("<a>" * 10**5)),
    Case("voc_list_leads_out", VOC, "train.txt: the image path '../../1' leads out", voc(listed="../../1\n")),
    Case("voc_list_of_missing_images", VOC, "no images", voc(listed="gone\n")),
    Case("voc_list_empty", VOC, "no images", voc(listed="")),
    Case("voc_list_with_spaces", VOC, boxes(2, 1, images=(2, 1)), voc(listed="my photo 1\n1  1\n", names=("1", "my photo 1"))),
    Case("voc_list_with_spaces_and_flags", VOC, boxes(1, 1, images=(1, 1)), voc(listed="my photo -1\n", names=("1", "my photo"))),
    Case("voc_xml_missing", VOC, boxes(1, 1, problems=["3.xml: no such file"], lost="1 of 3 images (missing xml: 1)"),
         lambda folder: (voc(listed="1\n3\n", names=("1", "3"))(folder), (folder / "in/Annotations/3.xml").unlink())),
    Case("voc_size_of_0", VOC, boxes(1, 1), voc(VOC_TEXT.format("").replace(">20<", ">0<").replace(">16<", ">0<"))),
    Case("voc_only_object_outside", VOC, boxes(
        1, 1, images=(1, 1), problems=["line 2: ... outside", "3.xml: image 3.png: none of its objects can be used (1)"],
        lost="left out 1 of 3 objects (outside the image: 1) and 1 of 3 images (no object left: 1)"),
        lambda folder: (voc(listed="1\n3\n", names=("1", "3"))(folder), write(
            folder / "in/Annotations/3.xml", VOC_TEXT.format("").replace(">10<", ">90<").replace(">5<", ">80<")))),
    Case("voc_leftovers", VOC, boxes(1, 1), lambda folder: (voc()(folder), [write(folder / "in" / name, b"\0\xff") for name in (
        "Annotations/._1.xml", "Annotations/.ipynb_checkpoints/1.xml", "JPEGImages/._1.png", "JPEGImages/1.db")])),
    Case("voc_list_missing", VOC, "in: no training split, but val",
         lambda folder: (voc()(folder), (folder / "in/ImageSets/Main/train.txt").unlink())),
    Case("voc_no_xml", VOC, "in: no voc annotations in a layout that is known", lambda folder: write(folder / "in/a", b"")),
]  # fmt: skip


def yolo(labels="0 .35 .375 .3 .5\n", classes="cat\ndog\n", image=None):
    def make(folder):
        for split in ("train", "val"):
            write(folder / f"in/images/{split}/1.png", colour(9, (20, 16)))
            write(folder / f"in/labels/{split}/1.txt", "0 .35 .375 .3 .5\n")
        write(folder / "in/labels/train/1.txt", labels)
        write(folder / "in/classes.txt", classes)
        if image is not None:
            write(folder / "in/images/train/1.png", image)

    return make


def yolo_reported(name, line, problem, left=1):
    check = one_problem(left, "in/labels/train/1.txt, line 2", problem)
    return Case(f"yolo_{name}", YOLO, check, yolo(f"0 .35 .375 .3 .5\n{line}\n"))


def yolo_files(*files, labels="0 .35 .375 .3 .5\n", **texts):
    """Images with these paths, each with labels beside it, and texts; `_` in their names stands for a dot."""

    def make(folder):
        for file in files:
            write(folder / f"in/{file}.png", colour(9, (20, 16)))
            write(folder / f"in/{file}.txt".replace("/images/", "/labels/"), labels)
        for name, text in texts.items():
            write(folder / f"in/{name}".replace("_", "."), text)

    return make


YOLO_CASES = [
    Case("yolo_empty_file", YOLO, boxes(0, 1), yolo("")),
    Case("yolo_leftovers", YOLO, boxes(1, 1), lambda folder: (yolo()(folder), [write(folder / "in" / name, b"\0\xff") for name in (
        "images/train/._1.png", "images/train/.ipynb_checkpoints/1.png", "images/train/Thumbs.db", "labels/train/._1.txt")])),
    Case("yolo_image_of_another_suffix", YOLO, boxes(1, 1), lambda folder: (yolo()(folder), [
        (folder / f"in/images/{split}/1.png").rename(folder / f"in/images/{split}/1.tif") for split in ("train", "val")])),
    Case("yolo_blank_lines", YOLO, boxes(1, 1), yolo("\n\n0 .35 .375 .3 .5\r\n\n")),
    Case("yolo_byte_order_mark", YOLO, boxes(1, 1), yolo("\ufeff0 .35 .375 .3 .5\n")),
    yolo_reported("unknown_class", "2 .5 .5 .1 .1", "unknown class 2"),
    yolo_reported("negative_class", "-1 .5 .5 .1 .1", "unknown class -1"),
    yolo_reported("half_a_class", "0.5 .5 .5 .1 .1", "unknown class 0.5"),
    yolo_reported("class_of_infinity", "inf .5 .5 .1 .1", "unknown class inf"),
    yolo_reported("class_name", "cat .5 .5 .1 .1", "not five numbers"),
    yolo_reported("four_values", "0 .5 .5 .1", "4 values"),
    yolo_reported("polygon_of_half_a_corner", "0 .1 .1 .2 .2 .3 .3 .4", "8 values"),
    yolo_reported("polygon_of_nan", "0 .1 .1 .2 nan .3 .3", "not finite"),
    yolo_reported("polygon_of_a_line", "0 .1 .1 .1 .2 .1 .3", "no inside"),
    yolo_reported("confidence_of_a_word", "0 .5 .5 .1 .1 sure", "is not 6 numbers"),
    yolo_reported("nan", "0 nan .5 .1 .1", "not finite"),
    yolo_reported("huge_numbers", "0 .5 .5 1e308 1e308", "not finite"),
    yolo_reported("negative_size", "0 .5 .5 -.1 .1", "no inside"),
    yolo_reported("pixels_instead_of_shares", "0 10 8 6 8", "outside"),
    yolo_reported("partly_outside", "0 .9 .5 .5 .1", "clipped", left=2),
    Case("yolo_confidence", YOLO, boxes(1, 1), yolo("0 .35 .375 .3 .5 .9\n")),
    Case("yolo_polygon", YOLO, boxes(1, 1), yolo("0 .2 .3 .5 .125 .3 .625\n")),
    Case("yolo_no_row_readable", YOLO, "no images ... left out 2 of 2 objects (not a box: 1, unknown class: 1) and 1 of 1 images ... line 1", yolo("0 1 1\n5 .5 .5 .1 .1\n")),
    Case("yolo_one_image_of_two_unreadable", YOLO, boxes(
        1, 1, images=(1, 1), problems=["2.txt, line 1: 3 values", "2.png: none of its objects can be used"],
        lost="left out 1 of 3 objects (not a box: 1) and 1 of 3 images (no object left: 1)"),
        lambda folder: (yolo()(folder), write(folder / "in/images/train/2.png", colour(9, (20, 16))),
                        write(folder / "in/labels/train/2.txt", "0 1 1\n"))),
    Case("yolo_classes_from_1", YOLO, "in/labels/train ... go up to 2, with 2 names ... counted from 1",
         yolo("1 .35 .375 .3 .5\n2 .5 .5 .1 .1\n")),
    Case("yolo_labels_without_image", YOLO, boxes(
        1, 1, problems=["9.txt: belongs to no image"], lost="1 of 3 images (labels without an image: 1)"),
        lambda folder: (yolo()(folder), write(folder / "in/labels/train/9.txt", "0 .5 .5 .1 .1\n"))),
    Case("yolo_yaml_leads_out", YOLO, "in/data.yaml: the image path '/etc' leads out", yolo_files(
        "train/1", "val/1", data_yaml="train: /etc\nnames: [cat]\n")),
    Case("yolo_yaml_leads_out_by_a_detour", YOLO, "the image path 'train/../../x' leads out", yolo_files(
        "train/1", "val/1", data_yaml="train: train/../../x\nnames: [cat]\n")),
    Case("yolo_yaml_runs_nothing", YOLO, boxes(1, 1, classes=("touch me",)), yolo_files(
        "train/1", "val/1", data_yaml="names: !!python/object/apply:os.system ['touch me']\n")),
    Case("yolo_yaml_of_nothing_but_a_list", YOLO, "in/data.yaml: not a description", yolo_files(
        "train/1", "val/1", data_yaml="- cat\n")),
    Case("yolo_yaml_cut", YOLO, "in/data.yaml: not valid YAML", yolo_files("train/1", "val/1", data_yaml="names: [cat")),
    Case("yolo_yaml_nested_without_end", YOLO, "in/data.yaml: not valid YAML", yolo_files(
        "train/1", "val/1", data_yaml="[" * 10**5)),
    Case("yolo_yaml_of_a_missing_folder", YOLO, "in/data.yaml: nothing is at its train, '../trian'", yolo_files(
        "train/1", "val/1", data_yaml="train: ../trian\nval: val\nnames: [cat]\n")),
    Case("yolo_yaml_names_with_gaps", YOLO, "in/data.yaml: names are not numbered from 0 to 1", yolo_files(
        "train/1", "val/1", data_yaml="names: {0: cat, 2: dog}\n")),
    Case("yolo_yaml_counts_otherwise", YOLO, "in/data.yaml: nc is '3', but there are 1 names", yolo_files(
        "train/1", "val/1", data_yaml="nc: 3\nnames: [cat]\n")),
    Case("yolo_yaml_of_key_points", YOLO, "labels of key points are not read", yolo_files(
        "train/1", "val/1", data_yaml="kpt_shape: [17, 2]\nnames: [person]\n")),
    Case("yolo_yaml_names_are_no_numbers", YOLO, boxes(1, 1, classes=("no", "1e3")), yolo_files(
        "train/1", "val/1", data_yaml="names:\n- no\n- 1e3\n")),
    Case("yolo_list_leads_out", YOLO, "train.txt: the image path '/etc/passwd' leads out", yolo_files(
        "obj_train_data/1", obj_names="cat\n", obj_data="train = data/train.txt\n", train_txt="/etc/passwd\n")),
    Case("yolo_list_of_a_missing_image", YOLO, boxes(
        1, 1, problems=["train.txt, line 2: no image data/9.png"], lost="1 of 3 images (missing image: 1)"), yolo_files(
        "obj_train_data/1", "obj_valid_data/1", classes_txt="", obj_names="cat\n", train_txt="data/obj_train_data/1.png\ndata/9.png\n",
        valid_txt="data/obj_valid_data/1.png\n", obj_data="train = data/train.txt\nvalid = data/valid.txt\n")),
    Case("yolo_one_image_cannot_be_split", YOLO, "cannot hold out 1 of 1", yolo_files("1", classes_txt="cat\n")),
    Case("yolo_no_labels", YOLO, "in: no labels there", lambda folder: (
        write(folder / "in/1.png", colour(9)), write(folder / "in/classes.txt", "cat\n"))),
    Case("yolo_not_text", YOLO, "1.txt: not a text file in UTF-8", yolo(b"\xff\xfe0")),
    Case("yolo_classes_missing", YOLO, "classes.txt: no such file",
         lambda folder: (yolo()(folder), (folder / "in/classes.txt").unlink())),
    Case("yolo_classes_empty", YOLO, "classes.txt ... no class", yolo(classes="\n")),
    Case("yolo_labels_missing", YOLO, "in/labels/train: no such folder",
         lambda folder: (yolo()(folder), (folder / "in/labels/train/1.txt").unlink(), (folder / "in/labels/train").rmdir())),
    Case("yolo_images_missing", YOLO, "in/images/train: no images there",
         lambda folder: (yolo()(folder), (folder / "in/images/train/1.png").unlink())),
    Case("yolo_no_image", YOLO, "in/images/train/1.png: not an image", yolo(image=b"text")),
    Case("yolo_postscript", YOLO, "in/images/train/1.png: not an image", yolo(
        image=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")),
]  # fmt: skip

CASES = [*COCO_CASES, *VOC_CASES, *YOLO_CASES]
