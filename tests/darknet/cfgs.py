"""Configurations of darknet's networks, written out by their papers' tables; `width` is that of the first layer."""

ANCHORS = "10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326"
TINY = "10,14, 23,27, 37,58, 81,82, 135,169, 344,319"


class Cfg:
    """Collects sections; `here` is the number of the next layer."""

    def __init__(self, side=416):
        self.lines = [f"[net]\nbatch=1\nheight={side}\nwidth={side}\nchannels=3\nlearning_rate=0.001\n"]
        self.here = 0

    def add(self, kind, **options):
        self.lines.append("\n".join([f"[{kind}]", *(f"{k}={v}" for k, v in options.items())]) + "\n")
        self.here += 1
        return self.here - 1

    def conv(self, filters, size=3, stride=1, act="leaky", **more):
        return self.add(
            "convolutional",
            batch_normalize=1,
            filters=filters,
            size=size,
            stride=stride,
            pad=1,
            activation=act,
            **more,
        )

    def route(self, *layers, **more):
        return self.add("route", layers=",".join(map(str, layers)), **more)

    def pool(self, size, stride):
        return self.add("maxpool", size=size, stride=stride)

    def head(self, mask, anchors, classes=80, **more):
        filters = len(mask.split(",")) * (5 + classes)
        self.add("convolutional", size=1, stride=1, pad=1, filters=filters, activation="linear")
        num = (anchors.count(",") + 1) // 2
        return self.add(
            "yolo", mask=mask, anchors=anchors, classes=classes, num=num, ignore_thresh=0.7, **more
        )

    def text(self):
        return "\n".join(self.lines)


def darknet53(width=32, blocks=(1, 2, 8, 8, 4), classes=1000, cfg=None):
    cfg = cfg or Cfg()
    cfg.conv(width)
    ends = []
    for i, count in enumerate(blocks, start=1):
        cfg.conv(width * 2**i, stride=2)
        for _ in range(count):
            cfg.conv(width * 2 ** (i - 1), 1)
            cfg.conv(width * 2**i)
            cfg.add("shortcut", **{"from": -3}, activation="linear")
        ends.append(cfg.here - 1)
    if classes:
        cfg.add("avgpool")
        cfg.add("convolutional", filters=classes, size=1, activation="linear")
        cfg.add("softmax", groups=1)
        return cfg.text()
    return ends


def yolov3(width=32, blocks=(1, 2, 8, 8, 4), spp=False, classes=80):
    cfg = Cfg()
    ends = darknet53(width, blocks, 0, cfg)
    for i, (mask, end) in enumerate((("6,7,8", None), ("3,4,5", ends[3]), ("0,1,2", ends[2]))):
        features = width * 2 ** (4 - i)
        if end is not None:
            cfg.route(-4)
            cfg.conv(features, 1)
            cfg.add("upsample", stride=2)
            cfg.route(-1, end)
        for j in range(3):
            if spp and i == 0 and j == 1:
                cfg.conv(features, 1)
                for k, size in enumerate((5, 9, 13)):
                    cfg.pool(size, 1)
                    cfg.route(*((-2,), (-4,), (-1, -3, -5, -6))[k])
            cfg.conv(features, 1)
            cfg.conv(2 * features)
        cfg.head(mask, ANCHORS, classes)
    return cfg.text()


def yolov3_tiny(width=16, classes=80):
    cfg = Cfg()
    for i in range(6):
        cfg.conv(width * 2**i)
        cfg.pool(2, 2 if i < 5 else 1)
    cfg.conv(width * 64)
    cfg.conv(width * 16, 1)
    cfg.conv(width * 32)
    cfg.head("3,4,5", TINY, classes)
    cfg.route(-4)
    cfg.conv(width * 8, 1)
    cfg.add("upsample", stride=2)
    cfg.route(-1, 8)
    cfg.conv(width * 16)
    cfg.head("0,1,2", TINY, classes)
    return cfg.text()


def yolov4_tiny():
    """Cross-stage parts: half of the channels go through two convolutions and beside themselves (Wang et al. 2021)."""
    cfg = Cfg()
    cfg.conv(32, stride=2)
    cfg.conv(64, stride=2)
    inner = 0
    for features in (64, 128, 256):
        cfg.conv(features)
        cfg.route(-1, groups=2, group_id=1)
        cfg.conv(features // 2)
        cfg.conv(features // 2)
        cfg.route(-1, -2)
        inner = cfg.conv(features, 1)
        cfg.route(-6, -1)
        cfg.pool(2, 2)
    cfg.conv(512)
    cfg.conv(256, 1)
    cfg.conv(512)
    cfg.head("3,4,5", TINY, scale_x_y=1.05, iou_loss="ciou", nms_kind="greedynms")
    cfg.route(-4)
    cfg.conv(128, 1)
    cfg.add("upsample", stride=2)
    cfg.route(-1, inner)
    cfg.conv(256)
    cfg.head("1,2,3", TINY, scale_x_y=1.05)
    return cfg.text()


def yolov4():
    """CSPDarknet-53 with mish, spatial pyramid pooling, paths up and down (Bochkovskiy et al. 2020)."""
    cfg = Cfg(608)
    cfg.conv(32, act="mish")
    ends = []
    for i, count in enumerate((1, 2, 8, 8, 4)):
        features = 64 * 2**i
        half = features if i == 0 else features // 2
        down = cfg.conv(features, stride=2, act="mish")
        first = cfg.conv(half, 1, act="mish")
        cfg.route(down)
        cfg.conv(half, 1, act="mish")
        for _ in range(count):
            cfg.conv(32 if i == 0 else half, 1, act="mish")
            cfg.conv(half, act="mish")
            cfg.add("shortcut", **{"from": -3}, activation="linear")
        cfg.conv(half, 1, act="mish")
        cfg.route(-1, first)
        ends.append(cfg.conv(features, 1, act="mish"))

    def five(features):
        for j in range(5):
            end = cfg.conv(features * (1 + j % 2), 3 if j % 2 else 1)
        return end

    for j in range(3):
        cfg.conv(512 * (1 + j % 2), 3 if j % 2 else 1)
    for size, back in ((5, (-2,)), (9, (-4,)), (13, (-1, -3, -5, -6))):
        cfg.pool(size, 1)
        cfg.route(*back)
    for j in range(3):
        coarse = cfg.conv(512 * (1 + j % 2), 3 if j % 2 else 1)

    def up(features, end):
        cfg.conv(features, 1)
        above = cfg.add("upsample", stride=2)
        cfg.route(end)
        cfg.conv(features, 1)
        cfg.route(-1, above)
        return five(features)

    middle = up(256, ends[3])
    fine = up(128, ends[2])
    cfg.conv(256)
    cfg.head("0,1,2", ANCHORS, scale_x_y=1.2, iou_loss="ciou")
    for features, before, end, mask, scale in (
        (256, fine, middle, "3,4,5", 1.1),
        (512, None, coarse, "6,7,8", 1.05),
    ):
        cfg.route(-4 if before is None else before)
        cfg.conv(features, stride=2)
        cfg.route(-1, end)
        five(features)
        cfg.conv(2 * features)
        cfg.head(mask, ANCHORS, scale_x_y=scale)
    return cfg.text()
