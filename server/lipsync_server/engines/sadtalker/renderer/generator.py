"""The generator: one source picture and the keypoints of a frame -> the frame.

`prepare` computes once all that depends on the source alone; `forward` renders a batch of frames from it. Tensors are
float32, or 16 bits where the renderer chooses that. Knows nothing of audio, poses or files.
"""

from typing import NamedTuple

from torch import Tensor, nn

from lipsync_server.engines.sadtalker.layout import Layout
from lipsync_server.engines.sadtalker.renderer.blocks import ConvNorm2d, Down2d, ResidualBlock3d, fold_batch_norms, warp
from lipsync_server.engines.sadtalker.renderer.motion import DenseMotion, Motion, MotionSource
from lipsync_server.engines.sadtalker.renderer.spade import SpadeDecoder


class GeneratorSource(NamedTuple):
    """The source's feature volume (1, C, D, S/4, S/4) and dense motion's constants for the source."""

    feature: Tensor
    motion: MotionSource


class Generator(nn.Module):
    """The network: the picture becomes a feature volume, the volume is warped by dense motion, SPADE decodes it."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.dense_motion_network = DenseMotion(layout / "dense_motion_network")
        self.first = ConvNorm2d(layout / "first")
        n_down = layout.count("down_blocks.{}")
        self.down_blocks = nn.ModuleList(Down2d(layout / f"down_blocks.{i}") for i in range(n_down))
        self.second = layout.conv("second")
        self.resblocks_3d = nn.Sequential()
        for i in range(layout.count("resblocks_3d.3dr{}")):
            self.resblocks_3d.add_module(f"3dr{i}", ResidualBlock3d(layout / f"resblocks_3d.3dr{i}"))
        self.n_channels_3d = layout.shape("resblocks_3d.3dr0.conv1.weight", 5)[0]
        self.third = ConvNorm2d(layout / "third", leaky=True)
        self.fourth = layout.conv("fourth")
        self.decoder = SpadeDecoder(layout / "decoder")

    def fuse(self) -> None:
        """Merge batch norms and SPADE's convolutions, which evaluation allows. The state dict then has other names."""
        fold_batch_norms(self)
        self.decoder.fuse()

    def feature_volume(self, picture: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] -> (B, C, D, S/4, S/4)."""
        x = self.first(picture.to(self.second.weight.dtype))
        for down in self.down_blocks:
            x = down(x)
        x = self.second(x)
        B, _, H, W = x.shape
        volume: Tensor = self.resblocks_3d(x.reshape(B, self.n_channels_3d, -1, H, W))
        return volume

    def prepare(self, picture: Tensor, keypoints: Tensor) -> GeneratorSource:
        """picture: (1, 3, S, S) float32 RGB in [0, 1]; keypoints: (1, K, 3) of the source."""
        feature = self.feature_volume(picture)
        return GeneratorSource(feature, self.dense_motion_network.prepare(feature, keypoints.float()))

    def features(self, source: GeneratorSource, keypoints: Tensor) -> tuple[Tensor, Motion]:
        """The decoder's input (B, C, S/4, S/4) and the motion it was warped by."""
        motion: Motion = self.dense_motion_network(source.motion, keypoints)
        volume = source.feature.float().expand(len(keypoints), -1, -1, -1, -1)
        warped = warp(volume, motion.flow).flatten(1, 2).to(self.fourth.weight.dtype)
        x = self.fourth(self.third(warped))
        return x * motion.occlusion, motion

    def forward(self, source: GeneratorSource, keypoints: Tensor) -> Tensor:
        """keypoints: (B, K, 3) float32 of the frames -> (B, 3, S, S) in [0, 1], in the weights' dtype."""
        feature, _ = self.features(source, keypoints)
        picture: Tensor = self.decoder(feature)
        return picture
