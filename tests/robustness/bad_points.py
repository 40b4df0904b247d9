"""Points of faces, cascades and photographs for them."""

from case import Case, colour, write

FLAGS = "--experiment=faces_shape_model --data.name=points:in --data.image_size=32 --workdir=new"
CASCADE = f"{FLAGS} --shape_model.cascade=cascade.xml"
HEADER = "file," + ",".join(f"x{i},y{i}" for i in range(68))
XML = """<?xml version="1.0"?>
<opencv_storage><cascade type_id="opencv-cascade-classifier"><stageType>BOOST</stageType><featureType>{kind}</featureType>
<height>20</height><width>20</width>"""


def row(name="1.png", **changes):
    """A face whose points all lie in an image of 32 pixels, some of them changed."""
    cells = {f"{axis}{i}": 4 + i % 24 + (axis == "y") for i in range(68) for axis in "xy"} | changes
    return ",".join([name, *(str(cells[column]) for column in HEADER.split(",")[1:])])


def faces(table, mirror=None):
    """A training split of one image with this table, and a good test split."""

    def make(folder):
        for split in ("train", "test"):
            write(folder / "in" / split / "1.png", colour(9, (32, 32)))
            write(folder / "in" / f"{split}.csv", "\n".join([HEADER, row()]))
        write(folder / "in" / "train.csv", table)
        if mirror is not None:
            write(folder / "in" / "mirror.txt", mirror)

    return make


def with_cascade(xml):
    def make(folder):
        faces("\n".join([HEADER, row()]))(folder)
        write(folder / "cascade.xml", xml)

    return make


# fmt: off
CASES = (
    Case("csv_without_a_column", FLAGS, "train.csv: column x67 has no column y67 beside it",
         faces("\n".join([HEADER.removesuffix(",y67"), row().rpartition(",")[0]]))),
    Case("csv_without_files", FLAGS, "train.csv: no column is called file", faces("\n".join([HEADER[5:], row()]))),
    Case("csv_with_a_short_row", FLAGS, "train.csv, row 2: 136 cells, not 137", faces("\n".join([HEADER, row().rpartition(",")[0]]))),
    Case("csv_with_nan", FLAGS, "train.csv ... 'nan' is not a number", faces("\n".join([HEADER, row(x3="nan")]))),
    Case("csv_with_words", FLAGS, "train.csv, row 2 ... 'left' is not a number", faces("\n".join([HEADER, row(y5="left")]))),
    Case("csv_empty", FLAGS, "train.csv: the file is empty", faces("")),
    Case("csv_of_an_image_that_is_not_there", FLAGS, "2.png", faces("\n".join([HEADER, row("2.png")]))),
    Case("points_outside", FLAGS, "train.csv: 1.png: ", faces("\n".join([HEADER, row(x9="500")]))),
    Case("mirror_that_is_no_permutation", FLAGS, "the mirror list is no permutation of 68 points",
         faces("\n".join([HEADER, row()]), " ".join(["0", *map(str, range(67))]))),
    Case("mirror_too_short", FLAGS, "the mirror list is ... 68", faces("\n".join([HEADER, row()]), "1 0")),
    Case("cascade_cut", CASCADE, "cascade.xml", with_cascade(XML.format(kind="HAAR"))),
    Case("cascade_of_another_type", CASCADE, "cascade.xml ... LBP", with_cascade(XML.format(kind="LBP") + "</cascade></opencv_storage>")),
    Case("cascade_that_is_no_xml", CASCADE, "cascade.xml", with_cascade("stages: 20")),
    Case("cascade_with_a_doctype", CASCADE, "cascade.xml", with_cascade("<!DOCTYPE x [<!ENTITY a 'a'>]><opencv_storage>&a;</opencv_storage>")),
)
# fmt: on
