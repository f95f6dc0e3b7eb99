"""Fixtures of the preview engine's tests: the shipped portrait, and models loaded once."""

import cv2
import numpy as np
import pytest
from lipsync_server.engines.base import Frames
from lipsync_server.engines.landmarks import FaceLandmarker
from lipsync_server.engines.preview.engine import PreviewEngine
from lipsync_server.paths import SAMPLES_DIR
from PIL import Image


@pytest.fixture(scope="session")
def portrait() -> Frames:
    return np.array(Image.open(SAMPLES_DIR / "portrait.jpg").convert("RGB"))


@pytest.fixture(scope="session")
def small_portrait(portrait: Frames) -> Frames:
    """Head and shoulders at 128 x 128: quick to draw."""
    return np.asarray(cv2.resize(portrait[:256, 96:352], (128, 128), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture(scope="session")
def landmarker() -> FaceLandmarker:
    return FaceLandmarker()


@pytest.fixture(scope="session")
def engine() -> PreviewEngine:
    engine = PreviewEngine()
    engine.load()
    return engine
