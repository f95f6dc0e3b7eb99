"""Requests to render, and speech for them, for the tests of the preview engine."""

import numpy as np
from lipsync_server.engines.base import Frames, RenderRequest, Speech
from lipsync_server.engines.preview.options import Options


def hum(duration_s: float, seed: int = 0) -> Speech:
    """Sound with the rhythm of speech: four bursts a second of a voice-like tone, with pauses."""
    t = np.arange(int(duration_s * 16_000)) / 16_000
    voice = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 12))
    bursts = np.clip(np.sin(2 * np.pi * 2 * t), 0, 1) * (np.sin(2 * np.pi * 0.23 * t + seed) > -0.5)
    return (0.2 * voice * bursts).astype(np.float32)


def request(picture: Frames, duration_s: float, speech: Speech | None = None, **options: object) -> RenderRequest:
    speech = hum(duration_s) if speech is None else speech
    return RenderRequest(picture, speech, duration_s, Options(**options))
