"""How good detections are: average precision and kinds of errors; and points: NME, PCK, OKS."""
