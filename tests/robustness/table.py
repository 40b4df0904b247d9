"""All bad inputs that are tried, by subject."""

import bad_annotations
import bad_archives
import bad_flags
import bad_images
import bad_points
import bad_records
import bad_runs
import bad_weights

TABLE = {
    "flags": bad_flags.CASES,
    "configs": bad_runs.CONFIGS,
    "checkpoints": bad_runs.CHECKPOINTS,
    "images": bad_images.CASES,
    "archives": bad_archives.CASES,
    "annotations": bad_annotations.CASES,
    "points": bad_points.CASES,
    "records": bad_records.CASES,
    "weights": bad_weights.CASES,
}
CASES = [(subject, case) for subject, cases in TABLE.items() for case in cases]
