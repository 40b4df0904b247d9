"""A small cascade written by hand: 4x4 windows, two stages, stumps and a tree of two nodes."""

GOOD = """<?xml version="1.0"?>
<opencv_storage>
<cascade type_id="opencv-cascade-classifier"><stageType>BOOST</stageType>
  <featureType>HAAR</featureType>
  <height>4</height>
  <width>4</width>
  <stageNum>2</stageNum>
  <stages>
    <_>
      <stageThreshold>0.5</stageThreshold>
      <weakClassifiers>
        <_><internalNodes>0 -1 0 0.25</internalNodes><leafValues>-1. 1.</leafValues></_></weakClassifiers></_>
    <_>
      <stageThreshold>-2.</stageThreshold>
      <weakClassifiers>
        <_><internalNodes>0 -1 1 0.</internalNodes><leafValues>3. -4.</leafValues></_>
        <_><internalNodes>0 1 0 9. -1 -2 1 0.</internalNodes><leafValues>5. 6. 7.</leafValues></_></weakClassifiers></_>
  </stages>
  <features>
    <_><rects><_>0 0 4 4 -1.</_><_>0 2 4 2 2.</_></rects><tilted>0</tilted></_>
    <_><rects><_>0 0 3 4 -1.</_><_>1 0 1 4 3.</_></rects></_></features></cascade>
</opencv_storage>
"""
BAD = {
    "cut": (lambda text: text[: len(text) // 2], "line 1.: not valid xml, or cut"),
    "empty": (lambda text: "", "line 1: not valid xml, or cut"),
    "of another type": (lambda text: text.replace("HAAR", "LBP"), "featureType is LBP, only HAAR is read"),
    "of the old form": (
        lambda text: '<opencv_storage><c type_id="opencv-haar-classifier"></c></opencv_storage>',
        "a cascade in the old form",
    ),
    "no cascade": (lambda text: "<annotation></annotation>", "no cascade of OpenCV"),
    "entities": (
        lambda text: text.replace(
            "<opencv", '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><opencv', 1
        ),
        "DOCTYPE and entities are refused",
    ),
    "a stage is missing": (
        lambda text: text.replace("<stageNum>2", "<stageNum>3"),
        "2 stages where stageNum is 3",
    ),
    "no stageNum": (lambda text: text.replace("stageNum", "number"), "no <stageNum>"),
    "tilted": (lambda text: text.replace("<tilted>0", "<tilted>1"), "feature 0 is tilted"),
    "beyond the window": (lambda text: text.replace("0 0 4 4", "0 0 5 4"), "beyond the window"),
    "a feature that is none": (
        lambda text: text.replace("0 -1 1 0.", "0 -1 2 0."),
        "node of feature 2, of 2",
    ),
    "a node that leads back": (lambda text: text.replace("0 1 0 9.", "0 2 0 9."), "leads to 2"),
    "nan": (lambda text: text.replace("0.25", "nan"), "not finite"),
    "no number": (lambda text: text.replace("0.25", "a"), "could not convert"),
    "leaves are missing": (
        lambda text: text.replace("-1. 1.", "-1."),
        "a tree of 4 numbers of nodes and 1 leaves",
    ),
    "a huge window": (lambda text: text.replace("<width>4", "<width>4000"), "a window of 4000x4"),
    "weight": (lambda text: text.replace("2 2.</_>", "2 2.5</_>"), "not five whole numbers"),
}
