import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def opencv():
    """OpenCV as the independent reference, and where its cascades lie."""
    return pytest.importorskip(
        "cv2", reason="needs opencv-python-headless<5, for its cascades and to compare with"
    )


@pytest.fixture(scope="session")
def frontal(opencv):
    from cnnjax.faces.cascade import read_cascade

    return read_cascade(Path(opencv.data.haarcascades) / "haarcascade_frontalface_default.xml")
