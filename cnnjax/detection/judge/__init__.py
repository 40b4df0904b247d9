"""How good detections are: COCO's and Pascal VOC's average precision, kinds of errors."""
