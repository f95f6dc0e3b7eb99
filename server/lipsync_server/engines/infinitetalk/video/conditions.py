"""The conditions of each window: its picture, the picture's CLIP tokens and latents, masks of people, and the speech.

A still picture is encoded once and serves every window. Under a slow camera move, and with a video in place of the
picture, every window has a picture of its own, which can be encoded on a side stream while the GPU decodes the window
before (`prefetch`). A condition passes through four stages, each with a type:

    ConditionMaker      makes them, window by window                                    this module
    WindowCondition     the tensors of one window                                       this module
    EmbeddedCondition   these after the transformer's input layers, for one guidance pass    model/transformer.py
    BlockContext        keys and values of one block                                    model/blocks.py

Knows images, the VAE, CLIP and speech embeddings. Does not know the transformer, nor the loop.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipsync_server.engines.base import FPS, Box, Frames
from lipsync_server.engines.infinitetalk.video.images import (
    condition_mask,
    latent_masks,
    move_camera,
    person_masks,
)
from lipsync_server.errors import InvalidInput
from lipsync_server.models.encoders.speech import SpeechEmbedding
from lipsync_server.models.pictures import fit_picture, to_tensor
from lipsync_server.models.sampling.side_stream import SideStream
from lipsync_server.models.sampling.windows import Schedule, Window
from lipsync_server.models.wan_vae.vae import WanVae

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WindowCondition:
    """The tensors that one window is conditioned on.

    picture: (3, H, W) in [-1, 1]. tokens: (257, 1280), CLIP's. y: (20, T, h, w), the four mask channels and the latents
    of the picture followed by grey frames. audio: (P, F, 5, 12, width), for each person and frame the 12 hidden states
    of wav2vec2 at the frame and two on either side. masks: (3, h, w) for two people, else None.
    """

    picture: Tensor
    tokens: Tensor
    y: Tensor
    audio: Tensor
    masks: Tensor | None

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the condition that exist, of the shapes above."""
        found = (self.picture, self.tokens, self.y, self.audio, self.masks)
        return [tensor for tensor in found if tensor is not None]


PictureAt = Callable[[Window], tuple[Frames, tuple[Box, Box] | None]]
"""The source picture of a window (uint8 RGB, any size) and the two boxes in it, if there are boxes."""


def still_picture(picture: Frames, boxes: tuple[Box, Box] | None) -> PictureAt:
    """The same picture, uint8 RGB (H, W, 3), and boxes for every window."""
    return lambda window: (picture, boxes)


def moving_picture(picture: Frames, boxes: tuple[Box, Box] | None) -> PictureAt:
    """The picture, uint8 RGB (H, W, 3), under a slow camera move; window 0 shows all of it."""
    return lambda window: move_camera(picture, window.start / FPS, boxes)


class ConditionMaker:
    """Makes each window's conditioning; keeps the encoded picture, which the next window may use again.

    Windows come in order. tokens_of: CLIP's tokens of a picture. side: the stream on which `prefetch` works.
    """

    def __init__(
        self,
        picture_at: PictureAt,
        speech: tuple[SpeechEmbedding, ...],
        schedule: Schedule,
        *,
        size: tuple[int, int],
        vae: WanVae,
        tokens_of: Callable[[Tensor], Tensor],
        side: SideStream | None = None,
    ) -> None:
        self._picture_at, self._speech, self._schedule = picture_at, speech, schedule
        self._size, self._vae, self._tokens_of = size, vae, tokens_of
        self._longest = max(window.n_latents for window in schedule.windows)
        self._last: tuple[Frames, Tensor, Tensor, Tensor] | None = None
        self._side = side or SideStream(vae.device)
        self._prefetches = True
        # By window index: the last window, which a second attempt needs again, and the next one.
        self._made: dict[int, WindowCondition] = {}

    @torch.inference_mode()
    def at(self, window: Window) -> WindowCondition:
        """The conditioning of `window`: prefetched, or made now."""
        with self._side.main_turn():
            self._made = {index: made for index, made in self._made.items() if index >= window.index}
            if window.index not in self._made:
                self._made[window.index] = self._make(window, *self._picture_at(window))
            made = self._made[window.index]
            self._side.hand_over(made.tensors)
        return made

    @torch.inference_mode()
    def prefetch(self, window: Window) -> None:
        """Begin to make the next window's condition on the side stream, if its picture is a new one.

        If that fails, nothing is prefetched from then on, and `at` makes each condition when its window comes.
        """
        if not self._prefetches or window.index in self._made:
            return
        try:
            source, boxes = self._picture_at(window)
            if self._last is not None and self._last[0] is source:
                return
            with self._side.beside():
                self._made[window.index] = self._make(window, source, boxes)
        except Exception as error:  # `at` tries again, and raises the error if it persists
            self._prefetches = False
            log.info("window %d is not prepared early: %s", window.index + 1, error)

    def close(self) -> None:
        """Wait for a prefetch that is still running, so that the tensors it reads are not freed under it."""
        with self._side.main_turn():
            self._made.clear()

    def _make(self, window: Window, source: Frames, boxes: tuple[Box, Box] | None) -> WindowCondition:
        picture, tokens, latents = self._encoded(source)
        # The VAE is causal: fewer grey frames at the end change nothing before them.
        latents = latents[:, : window.n_latents]
        height, width = latents.shape[2:]
        mask = condition_mask(window.n_latents, height, width).to(latents.device)
        return WindowCondition(
            picture, tokens, torch.cat([mask, latents]), self._audio(window), self._masks(source, boxes)
        )

    @torch.inference_mode()
    def colours(self) -> Tensor:
        """The first window's picture, float32 (3, H, W) in [-1, 1]; every frame gets its colours."""
        source, _ = self._picture_at(self._schedule.windows[0])
        return to_tensor(fit_picture(source, self._size)).to(self._vae.device)

    def _encoded(self, source: Frames) -> tuple[Tensor, Tensor, Tensor]:
        """The picture at the video's size, its CLIP tokens, and the latents of it and grey frames after it."""
        if self._last is None or self._last[0] is not source:
            picture = to_tensor(fit_picture(source, self._size)).to(self._vae.device)
            latents = self._vae.encode_picture(picture, self._longest)
            self._last = (source, picture, self._tokens_of(picture), latents)
        return self._last[1:]

    def _audio(self, window: Window) -> Tensor:
        indices = [self._schedule.audio_indices(window, person) for person in range(len(self._speech))]
        return torch.stack([speech.gather(at) for speech, at in zip(self._speech, indices, strict=True)])

    def _masks(self, source: Frames, boxes: tuple[Box, Box] | None) -> Tensor | None:
        if len(self._speech) < 2:
            return None
        try:
            masks = latent_masks(person_masks((source.shape[0], source.shape[1]), boxes), self._size)
        except InvalidInput:
            # A narrow box at the rim that the camera does not show now: use the person's place in the first window.
            first, boxes = self._picture_at(self._schedule.windows[0])
            masks = latent_masks(person_masks((first.shape[0], first.shape[1]), boxes), self._size)
        return masks.to(self._vae.device)
