"""The benchmark's networks and inputs: random networks, noise as the face, as the photo and as the speech.

The benchmark needs no engine and no face detector. It calls the same coefficient track, renderer and paste-back as the
engine. Knows no clock and prints nothing.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lipsync_server.engines.sadtalker.arrays import Speech
from lipsync_server.engines.sadtalker.audio.audio_nets import ExpNet
from lipsync_server.engines.sadtalker.audio.coefficients import CoefficientTrack, TrackOptions, source_semantics
from lipsync_server.engines.sadtalker.audio.mel import SAMPLES_PER_FRAME
from lipsync_server.engines.sadtalker.audio.pose_vae import PoseVAE
from lipsync_server.engines.sadtalker.face.paste import FeatherPaste
from lipsync_server.engines.sadtalker.face.reconstruction import FaceReconstruction
from lipsync_server.engines.sadtalker.layout import Layout
from lipsync_server.engines.sadtalker.loading import official
from lipsync_server.engines.sadtalker.loading.model_files import build
from lipsync_server.engines.sadtalker.renderer.generator import Generator
from lipsync_server.engines.sadtalker.renderer.keypoints import KeypointDetector
from lipsync_server.engines.sadtalker.renderer.mapping import MappingNet
from lipsync_server.engines.sadtalker.renderer.renderer import Precision, Renderer, default_batch, delayed
from lipsync_server.media_types import FPS
from lipsync_server.random_models.sadtalker import random_tensors

_M = TypeVar("_M", bound=nn.Module)
_PHOTO_SIZE = (1080, 1920, 3)
_BOX = (560, 140, 1360, 940)


class Material:
    """The networks and inputs that do not depend on size or precision. They include all weights of a real engine."""

    def __init__(self, device: torch.device, dimensions: official.Dimensions = official.PUBLISHED) -> None:
        self.device = device
        shapes = official.combined(dimensions)
        self._tensors = random_tensors({n: s for n, s in shapes.items() if not n.startswith(official.UNUSED_PREFIXES)})
        self.exp_net = self.network(ExpNet, "audio2exp").to(device)
        self.pose_vae = self.network(PoseVAE, "audio2pose").to(device)
        self.reconstruction = self.network(FaceReconstruction, "face_3drecon").to(device)
        self.mappings = {
            n: build(MappingNet, random_tensors(official.mapping(n, dimensions), n), "mapping", "bench").to(device)
            for n in (70, 73)
        }
        rng = np.random.default_rng(0)
        self.coefficients = (0.1 * rng.standard_normal(73)).astype(np.float32)
        self.photo = rng.integers(0, 255, _PHOTO_SIZE, dtype=np.uint8)

    def network(self, kind: Callable[[Layout], _M], prefix: str) -> _M:
        """One network with its own copy of its weights, because a renderer changes its networks."""
        start = prefix + "."
        tensors = {n[len(start) :]: value.clone() for n, value in self._tensors.items() if n.startswith(start)}
        return build(kind, tensors, prefix, "bench")

    def track(self, duration_s: float) -> CoefficientTrack:
        """Coefficients of a recording of noise."""
        n_frames = max(1, round(duration_s * FPS))
        rng = np.random.default_rng(1)
        speech: Speech = 0.1 * rng.standard_normal(SAMPLES_PER_FRAME * n_frames, dtype=np.float32)
        options = TrackOptions(seed=1)
        return CoefficientTrack(self.exp_net, self.pose_vae, speech, n_frames, self.coefficients, options)


class Rig:
    """A renderer of one size and precision with a prepared source, at the batch size of the engine."""

    def __init__(self, material: Material, size: int, precision: Precision, *, compiled: bool) -> None:
        self.material, self.size, self.precision = material, size, precision
        self.device = material.device
        self.batch_size = default_batch(size, self.device)
        self.mapping = material.mappings[73]
        self.renderer = Renderer(
            material.network(KeypointDetector, "kp_extractor"),
            material.network(Generator, "generator"),
            device=self.device,
            precision=precision,
            compile_generator=compiled,
        )
        self.paste = FeatherPaste(material.photo, _BOX, self.device)
        square = np.random.default_rng(size).integers(0, 255, (size, size, 3), dtype=np.uint8)
        semantics = torch.from_numpy(source_semantics(material.coefficients))[None]
        self.source = self.renderer.prepare(torch.from_numpy(square), semantics, self.mapping)

    def stream(self, track: CoefficientTrack) -> Iterator[int]:
        """Render a whole track into finished frames, drop them, and yield the count of frames after each batch."""
        starts = range(0, track.n_frames, self.batch_size)
        launches = (self._launch(track, first) for first in starts)
        done = 0
        for patches in delayed(launches, int(self.device.type == "cuda")):
            done += len(self.paste.place(patches))
            yield done

    def first_frame(self, track: CoefficientTrack) -> Tensor:
        """The first frame's square, (1, 3, S, S) float32 on the CPU."""
        windows = torch.from_numpy(track.semantics(0, 1))
        return self.renderer.frames(self.source, windows, self.mapping, batch_size=self.batch_size).float().cpu()

    @torch.inference_mode()
    def stages(self, track: CoefficientTrack) -> dict[str, Callable[[], object]]:
        """The parts of a batch as functions, each not compiled. Only `render` is compiled if the renderer is."""
        network, n, motion = self.renderer.generator, self.batch_size, self.renderer.generator.dense_motion_network
        windows = torch.from_numpy(track.semantics(0, min(n, track.n_frames))).to(self.device)
        keypoints = self.source.canonical.expand(n, -1, -1) + 0.01
        generator_source = self.source.generator
        feature, moved = network.features(generator_source, keypoints)
        hourglass_out = motion.hourglass(moved.hourglass_input)
        squares = network.decoder(feature)
        return {
            "mapping": lambda: self.mapping(windows),
            "dense_motion": lambda: motion(generator_source.motion, keypoints),
            "dense_motion.hourglass": lambda: motion.hourglass(moved.hourglass_input),
            "dense_motion.mask": lambda: motion.mask(hourglass_out),
            "features": lambda: network.features(generator_source, keypoints),
            "decoder": lambda: network.decoder(feature),
            "render": lambda: self.renderer.render(generator_source, keypoints),
            "paste_and_fetch": lambda: self.paste.place(self.paste.blend(squares)),
        }

    @torch.inference_mode()
    def _launch(self, track: CoefficientTrack, first: int) -> Tensor:
        windows = torch.from_numpy(track.semantics(first, min(first + self.batch_size, track.n_frames)))
        squares = self.renderer.frames(self.source, windows, self.mapping, batch_size=self.batch_size)
        return self.paste.blend(squares)
