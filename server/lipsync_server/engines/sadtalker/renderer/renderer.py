"""Runs the renderer on one device in one precision: coefficients in, pictures out, in batches of one size.

`prepare` computes once all that depends on the source picture alone. Results are float32. Knows no audio and no files.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from lipsync_server.engines.sadtalker.audio.coefficients import WINDOW_FRAMES
from lipsync_server.engines.sadtalker.renderer.generator import Generator, GeneratorSource
from lipsync_server.engines.sadtalker.renderer.keypoints import KeypointDetector
from lipsync_server.engines.sadtalker.renderer.mapping import HeadPose, MappingNet, posed_keypoints
from lipsync_server.engines.sadtalker.renderer.volume_conv import conv_times, prefer_2d, use_volume_convs

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_M = TypeVar("_M", bound=nn.Module)
Precision = Literal["float32", "float16", "bfloat16"]
DTYPES: Mapping[Precision, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class RenderSource(NamedTuple):
    """One source picture, prepared: canonical keypoints (1, K, 3) and the generator's share."""

    canonical: Tensor
    generator: GeneratorSource


@dataclass(frozen=True)
class Angles:
    """Angles in degrees, one per frame of a batch, in place of the predicted ones; None keeps those."""

    yaw: Tensor | None = None
    pitch: Tensor | None = None
    roll: Tensor | None = None

    def over(self, pose: HeadPose) -> HeadPose:
        """`pose` with the given angles in place of its own."""
        given = {name: getattr(self, name) for name in ("yaw", "pitch", "roll")}
        return pose._replace(**{name: value.to(pose.yaw) for name, value in given.items() if value is not None})


class Renderer:
    """Keypoint detector and generator of one size. Keypoints are always float32; the generator runs in `precision`."""

    def __init__(
        self,
        keypoints: KeypointDetector,
        generator: Generator,
        *,
        device: torch.device,
        precision: Precision = "float32",
        compile_generator: bool = False,
    ) -> None:
        """Fuse the networks, move them to `device` and convert them to `precision`, all in place."""
        self.device, self.precision = device, precision
        self.keypoints = keypoints.to(device)
        generator.fuse()
        self.conv_times: dict[str, float] = {}
        if device.type == "cuda":
            self.conv_times = conv_times(device, DTYPES[precision])
            if prefer_2d(self.conv_times):
                use_volume_convs(generator.dense_motion_network)
        self.generator = channels_last(generator.to(device=device, dtype=DTYPES[precision]))
        self.compiled = compile_generator
        self._compiled: Callable[[GeneratorSource, Tensor], Tensor] = self.generator
        if compile_generator:
            self._compiled = torch.compile(self.generator, dynamic=False)

    @torch.inference_mode()
    def prepare(self, picture: Tensor, semantics: Tensor, mapping: MappingNet) -> RenderSource:
        """picture: (S, S, 3) uint8; semantics: (1, C, 27) of the source."""
        square = picture.to(self.device).permute(2, 0, 1)[None].float() / 255
        canonical = self.keypoints(square)
        posed = posed_keypoints(canonical, mapping(semantics.to(self.device)))
        return RenderSource(canonical, self.generator.prepare(square, posed))

    def warm_up(self, size: int, batch_size: int, mapping: MappingNet) -> None:
        """Render a batch of zeros, so that kernels are compiled and chosen before the first job."""
        square = torch.full((size, size, 3), 127, dtype=torch.uint8)
        semantics = torch.zeros(batch_size, mapping.n_coefficients, WINDOW_FRAMES)
        source = self.prepare(square, semantics[:1], mapping)
        self.frames(source, semantics, mapping, batch_size=batch_size)

    @torch.inference_mode()
    def frames(
        self,
        source: RenderSource,
        semantics: Tensor,
        mapping: MappingNet,
        *,
        angles: Angles | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """semantics: (n, C, 27) of consecutive frames -> (n, 3, S, S) in [0, 1].

        batch_size pads a short batch for a compiled generator, which so sees one shape only.
        """
        n = len(semantics)
        pose = mapping(semantics.to(self.device))
        if angles is not None:
            pose = angles.over(pose)
        keypoints = posed_keypoints(source.canonical, pose)
        if self.compiled and batch_size is not None and n < batch_size:
            keypoints = torch.cat([keypoints, keypoints[-1:].expand(batch_size - n, -1, -1)])
        return self.render(source.generator, keypoints)[:n]

    @torch.inference_mode()
    def render(self, source: GeneratorSource, keypoints: Tensor) -> Tensor:
        """The generator alone, compiled while `compiled` holds: (B, K, 3) keypoints -> (B, 3, S, S)."""
        if self.compiled:
            try:
                return self._compiled(source, keypoints)
            except Exception as error:  # the class is not known before its slow import; other errors are raised again
                from torch._dynamo.exc import TorchDynamoException  # slow to import, and seldom needed

                if not isinstance(error, TorchDynamoException):
                    raise
                log.warning("torch.compile does not work here, going on without: %s", str(error).splitlines()[0])
                self.compiled = False
        squares: Tensor = self.generator(source, keypoints)
        return squares


def default_batch(size: int, device: torch.device) -> int:
    """Frames in a batch: 1 on a CPU, which gains nothing from more; 8 of 256 pixels, or 2 of 512, fill a GPU."""
    if device.type != "cuda":
        return 1
    return 8 if size == 256 else 2


def channels_last(module: _M) -> _M:
    """Convolution weights with channels innermost, the layout that both oneDNN and cuDNN are fastest in."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
        elif isinstance(layer, nn.Conv3d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
    return module


def delayed(items: Iterable[_T], n: int) -> Iterator[_T]:
    """Yield `items` in order, each after the next n were made, so that the GPU has work queued meanwhile."""
    waiting: deque[_T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > n:
            yield waiting.popleft()
    yield from waiting


def angles_for(paths: Mapping[str, Sequence[float]], first: int, stop: int) -> Angles:
    """The angles of frames [first, stop). paths: degrees of every frame by name (yaw, pitch, roll)."""
    return Angles(**{name: torch.tensor(path[first:stop], dtype=torch.float32) for name, path in paths.items()})
