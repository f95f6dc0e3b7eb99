"""The sadtalker engine: finds the face, computes coefficients of face and speech, renders batches, composes frames.

A frame depends on the picture, the speech, the options and its own number only, so an interrupted render can go on from
any frame, and memory does not grow with the recording. Knows no HTTP and no encoder.
"""

import gc
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lipsync_server.engines.base import Frames, RenderContext, RenderRequest, Report, no_report
from lipsync_server.engines.landmarks import Face, FaceLandmarker, choose_face, landmarker
from lipsync_server.engines.out_of_memory import gpu_out_of_memory
from lipsync_server.engines.sadtalker.arrays import Rows
from lipsync_server.engines.sadtalker.audio.coefficients import (
    N_MOTION,
    CoefficientTrack,
    TrackOptions,
    source_semantics,
)
from lipsync_server.engines.sadtalker.audio.mel import n_whole_frames
from lipsync_server.engines.sadtalker.face.camera import camera_path
from lipsync_server.engines.sadtalker.face.landmarks68 import landmarks68
from lipsync_server.engines.sadtalker.face.paste import Compositor, CropFrames, FeatherPaste, PoissonPaste
from lipsync_server.engines.sadtalker.face.reference import reference_rows
from lipsync_server.engines.sadtalker.face.source import Source, prepare_source
from lipsync_server.engines.sadtalker.info import device_name, sizes_present, weights_folder
from lipsync_server.engines.sadtalker.loading.model_files import Networks, load_networks
from lipsync_server.engines.sadtalker.options import Options
from lipsync_server.engines.sadtalker.renderer.renderer import (
    Precision,
    Renderer,
    RenderSource,
    angles_for,
    default_batch,
    delayed,
)
from lipsync_server.errors import Cancelled, WeightsError
from lipsync_server.models.enhance import SIDE, Enhancer, load_enhancer
from lipsync_server.models.pictures import fit_video
from lipsync_server.settings import EngineSettings

log = logging.getLogger(__name__)

# A resume point ends a group of pictures and waits for the disk, so it is saved after this much work, not every batch.
_SAVE_FRAMES, _SAVE_S = 100, 20.0
_STRONG_YAW = 0.6


@dataclass(frozen=True)
class _Loaded:
    """One size in one precision, on its device."""

    size: int
    precision: Precision
    networks: Networks
    renderer: Renderer


class SadTalkerEngine:
    """Renders one request at a time and keeps one size loaded."""

    name = "sadtalker"

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._folder = weights_folder(settings)
        self._device = torch.device(device_name(settings))
        self._landmarker: FaceLandmarker | None = None
        self._loaded: _Loaded | None = None
        # Loaded by the first job that asks for it.
        self.enhancer: Enhancer | None = None

    def load(self, report: Report = no_report) -> None:
        """Load the default size; raises WeightsError naming the file and tensor."""
        if self._loaded is None:
            report("load", 0, 2)
            self._load(self._size(None), self._precision("auto"))
            report("load", 2, 2)
        if self._landmarker is None:
            self._landmarker = landmarker()

    def close(self) -> None:
        """Free the memory of all models; they may be loaded again."""
        self._loaded = self._landmarker = self.enhancer = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def generate(self, request: RenderRequest, context: RenderContext) -> Iterator[Frames]:
        """Yield the frames of `request`, uint8 RGB (n, H, W, 3). Raises NoFace, and Cancelled between batches."""
        assert isinstance(request.options, Options)
        options = request.options.resolved()
        size, precision = self._size(options.size), self._precision(options.precision)
        if self._loaded is None or (self._loaded.size, self._loaded.precision) != (size, precision):
            context.progress("load", 0, 1, f"the {size} pixel model")
        loaded = self._load(size, precision)
        if self._landmarker is None:
            self._landmarker = landmarker()
        if options.enhance and self.enhancer is None:
            context.progress("load", 1, 1, "the face enhancer")
            self.enhancer = load_enhancer(self._folder, self._device)

        context.progress("preprocess", 0, 3, "finding the face")
        source, face = self._source(request, options, loaded, context)
        context.progress("preprocess", 1, 3, "preparing the face")
        reference = None
        if request.picture_video is not None and options.follow_video != "none":
            reference = reference_rows(
                request.picture_video,
                request.n_frames,
                self._landmarker,
                face,
                source,
                loaded.networks.reconstruction,
            )
        enhancer = self.enhancer if options.enhance else None
        render = _Render(request, options, loaded, source, reference, enhancer, self._device)
        context.progress("preprocess", 3, 3)
        yield from render.batches(context)

    def _source(
        self, request: RenderRequest, options: Options, loaded: _Loaded, context: RenderContext
    ) -> tuple[Source, Face]:
        """The prepared source picture and its face. Raises NoFace, and InvalidImage for a face that is too small."""
        assert self._landmarker is not None
        faces = self._landmarker.detect(request.picture, face_box=options.face_box)
        face = choose_face(faces, face_index=options.face_index, face_box=options.face_box)
        if abs(face.yaw) > _STRONG_YAW:
            context.warn(
                "The face is seen almost from the side; lips may look wrong. A picture that looks at the camera works "
                "better."
            )
        source = prepare_source(
            request.picture,
            landmarks68(face.points),
            loaded.networks.reconstruction,
            size=loaded.size,
            preprocess=options.preprocess,
            reference_clamp=options.crop_limit == "picture_width",
            shrink=options.shrink,
        )
        return source, face

    def _size(self, asked: int | None) -> int:
        """The size to load: as asked, else the smallest whose file is here. Raises WeightsError if it is not here."""
        present = sizes_present(self._folder)
        if asked is None:
            asked = present[0] if present else 256
        if present and asked not in present:
            raise WeightsError(
                f"Size {asked} was asked for, but only {present[0]} is in {self._folder}; run `lipsync weights pull "
                f"sadtalker-{asked}` or ask for size {present[0]}."
            )
        return asked

    def _precision(self, asked: Precision | Literal["auto"]) -> Precision:
        """The renderer's number format: as asked, else the fastest one of this device."""
        if asked != "auto":
            return asked
        if self._device.type == "cuda":
            return "float16"
        return "bfloat16" if _cpu_has_bfloat16() else "float32"

    def _load(self, size: int, precision: Precision) -> _Loaded:
        if self._loaded is not None and (self._loaded.size, self._loaded.precision) == (size, precision):
            return self._loaded
        self._loaded = None  # one size at a time: 6 GB is not room for two
        networks = load_networks(self._folder, size)
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.backends.cudnn.benchmark = True
            # The float32 parts place the keypoints; with TF32's 10 bits of mantissa the picture would tremble.
            torch.backends.cudnn.allow_tf32 = False
        renderer = Renderer(
            networks.keypoints,
            networks.generator,
            device=self._device,
            precision=precision,
            compile_generator=on_gpu and self._settings.compile,
        )
        for network in (networks.exp_net, networks.pose_vae, networks.reconstruction, *networks.mappings.values()):
            network.to(self._device)
        if on_gpu:
            renderer.warm_up(size, default_batch(size, self._device), networks.mappings[73])
        self._loaded = _Loaded(size, precision, networks, renderer)
        log.info("sadtalker %d loaded on %s in %s", size, self._device, precision)
        return self._loaded


class _Render:
    """One request, with everything prepared that is the same for all frames.

    track: coefficients of the frames. source: the renderer's constants of the picture. compositor: makes video frames
    from rendered squares. n_heard: number of frames with speech; later frames repeat the last of them.
    """

    def __init__(
        self,
        request: RenderRequest,
        options: Options,
        loaded: _Loaded,
        source: Source,
        reference: Rows | None,
        enhancer: Enhancer | None,
        device: torch.device,
    ) -> None:
        self.request, self.options, self.loaded, self.enhancer = request, options, loaded, enhancer
        self.mapping = loaded.networks.mappings[73 if options.pastes_back else N_MOTION]
        coefficients = source.coefficients[: self.mapping.n_coefficients]
        self.n_frames = request.n_frames
        self.n_heard = self.n_frames
        if options.tail == "dropped":
            self.n_heard = max(1, min(n_whole_frames(len(request.speech)), self.n_frames))
        self.track = CoefficientTrack(
            loaded.networks.exp_net,
            loaded.networks.pose_vae,
            request.speech,
            self.n_heard,
            coefficients,
            TrackOptions(
                seed=options.seed,
                style=options.pose_style,
                join=options.pose_join,
                blink_scale=1.0 if options.blink else 0.0,
                expression_scale=options.expression_scale,
                still=bool(options.still),
                follow_pose=options.follow_video in ("pose", "both"),
                follow_eyes=options.follow_video in ("eyes", "both"),
            ),
            reference,
        )
        side = loaded.size if enhancer is None else SIDE
        self.compositor = _compositor(request.picture, options, side, source, device)
        self.paths = {
            name: camera_path(degrees, self.n_heard).tolist()
            for name, degrees in (("yaw", options.yaw), ("pitch", options.pitch), ("roll", options.roll))
            if degrees
        }
        semantics = torch.from_numpy(source_semantics(coefficients))[None]
        self.source: RenderSource = loaded.renderer.prepare(torch.from_numpy(source.square), semantics, self.mapping)
        self.batch_size = options.batch_size or default_batch(loaded.size, device)

    def batches(self, context: RenderContext) -> Iterator[Frames]:
        """Yield the frames after the resume point, uint8 RGB (n, H, W, 3); save a resume point now and then."""
        done = saved = context.resume_point.n_frames if context.resume_point else 0
        saved_at = time.monotonic()
        ahead = 1 if self.loaded.renderer.device.type == "cuda" else 0
        for n, patches in delayed(self._launches(done, context), ahead):
            frames = self.compositor.place(patches)
            held = n - len(frames)
            yield np.concatenate([frames, np.repeat(frames[-1:], held, axis=0)]) if held else frames
            done += n
            context.progress("generate", done, self.n_frames)
            if done < self.n_frames and (done - saved >= _SAVE_FRAMES or time.monotonic() - saved_at >= _SAVE_S):
                context.save({"n_frames": done})
                saved, saved_at = done, time.monotonic()

    def _launches(self, first: int, context: RenderContext) -> Iterator[tuple[int, Tensor]]:
        """Batches from `first` on, as (frames of the video, blended patches); on a GPU they may still be computed."""
        while first < self.n_frames:
            if context.cancelled():
                raise Cancelled("The job was cancelled while frames were rendered.")
            stop = min(first + self.batch_size, self.n_frames)
            try:
                patches = self._patches(first, stop)
            except torch.OutOfMemoryError as error:
                self._shrink_batch(error)
                continue
            yield stop - first, patches
            first = stop

    @torch.inference_mode()
    def _patches(self, first: int, stop: int) -> Tensor:
        """Frames [first, stop) of the video. Frames after the end of the speech repeat one frame."""
        first, stop = min(first, self.n_heard - 1), min(stop, self.n_heard)
        squares = self.loaded.renderer.frames(
            self.source,
            torch.from_numpy(self.track.semantics(first, stop)),
            self.mapping,
            angles=angles_for(self.paths, first, stop) if self.paths else None,
            batch_size=self.batch_size,
        )
        return self.compositor.blend(squares if self.enhancer is None else self.enhancer(squares))

    def _shrink_batch(self, error: torch.OutOfMemoryError) -> None:
        """Halve the batch size after `error`. Raises OutOfMemory if the batch is a single frame already."""
        if self.batch_size == 1:
            doing = f"while SadTalker rendered one frame of {self.loaded.size} pixels at a time"
            raise gpu_out_of_memory(error, doing=doing, remedies=("size 256",)) from error
        self.batch_size = max(1, self.batch_size // 2)
        log.warning("out of GPU memory; going on with batches of %d frames", self.batch_size)
        torch.cuda.empty_cache()


def _compositor(picture: Frames, options: Options, size: int, source: Source, device: torch.device) -> Compositor:
    """The compositor that the options ask for. size: side of the rendered squares in pixels."""
    if not options.pastes_back:
        return CropFrames(size, source.crop_size)
    video, (scale_x, scale_y) = fit_video(picture)
    left, top, right, bottom = source.box
    box = (round(left * scale_x), round(top * scale_y), round(right * scale_x), round(bottom * scale_y))
    return FeatherPaste(video, box, device) if options.paste == "feather" else PoissonPaste(video, box)


def _cpu_has_bfloat16() -> bool:
    """Whether bfloat16 convolutions run in hardware; elsewhere they are emulated and slower than float32."""
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in flags)


def create(settings: EngineSettings) -> SadTalkerEngine:
    """The engine, not loaded yet; the registry calls this."""
    return SadTalkerEngine(settings)
