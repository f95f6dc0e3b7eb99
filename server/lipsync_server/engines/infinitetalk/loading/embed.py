"""Writes the embeddings of the default prompts with the text encoder that is here (models/encoders/known_prompts.py).

Knows where the engine looks for the file. Needs the text encoder alone, on a GPU or on the CPU.
"""

from pathlib import Path

import torch

from lipsync_server.engines.devices import choose_device
from lipsync_server.engines.infinitetalk.files.encoders import find_encoders
from lipsync_server.models.encoders.known_prompts import write_known_prompts
from lipsync_server.models.encoders.text import DEFAULT_PROMPT, NEGATIVE_PROMPT, TextEncoder
from lipsync_server.settings import EngineSettings


def embed_default_prompts(settings: EngineSettings) -> Path:
    """Encode the default prompt and the default negative prompt; returns the file's path.

    Raises WeightsError when a model file of the engine is missing.
    """
    device = torch.device(choose_device(settings.device, least_bytes=2**30).name)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    encoder = TextEncoder(find_encoders(settings).text, device=device, dtype=dtype)
    prompts = [DEFAULT_PROMPT, NEGATIVE_PROMPT]
    embeddings = dict(zip(prompts, encoder.encode(prompts), strict=True))
    return write_known_prompts(settings.weights_dir, encoder.files.weights, embeddings)
