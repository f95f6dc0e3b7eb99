"""PoseVAE's decoder: sound, a style and noise -> the head's motion over a block of 32 frames.

A pose is six float32 values: three angles in radians and three of translation, as offsets from the source's pose.
pose_track.py joins blocks into a track. The VAE's encoder and its discriminator exist for training only.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipsync_server.engines.sadtalker.audio.audio_nets import AudioEncoder
from lipsync_server.engines.sadtalker.layout import Layout


class _Residual(nn.Module):
    """Pre-activation pair of convolutions plus a convolved shortcut; strides halve time only."""

    def __init__(self, layout: Layout, stride: int | tuple[int, int]) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            layout.norm2d("conv_block.0"),
            nn.ReLU(),
            layout.conv("conv_block.2", stride=stride, padding=1),
            layout.norm2d("conv_block.3"),
            nn.ReLU(),
            layout.conv("conv_block.5", padding=1),
        )
        skip = layout.conv("conv_skip.0", stride=stride, padding=1)
        self.conv_skip = nn.Sequential(skip, layout.norm2d("conv_skip.1"))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv_block(x) + self.conv_skip(x)
        return result


class _Upsample(nn.Module):
    """Transposed convolution that doubles time."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        inputs, out, height, width = layout.shape("upsample.weight", 4)
        self.upsample = nn.ConvTranspose2d(inputs, out, (height, width), stride=(2, 1))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.upsample(x)
        return result


class ResUnet(nn.Module):
    """A U-Net over time, whose levels are residual blocks: (B, 1, n_frames, 6) -> the same shape, in [0, 1]."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            layout.conv("input_layer.0", padding=1),
            layout.norm2d("input_layer.1"),
            nn.ReLU(),
            layout.conv("input_layer.3", padding=1),
        )
        self.input_skip = nn.Sequential(layout.conv("input_skip.0", padding=1))
        self.residual_conv_1 = _Residual(layout / "residual_conv_1", (2, 1))
        self.residual_conv_2 = _Residual(layout / "residual_conv_2", (2, 1))
        self.bridge = _Residual(layout / "bridge", (2, 1))
        self.upsample_1 = _Upsample(layout / "upsample_1")
        self.up_residual_conv1 = _Residual(layout / "up_residual_conv1", 1)
        self.upsample_2 = _Upsample(layout / "upsample_2")
        self.up_residual_conv2 = _Residual(layout / "up_residual_conv2", 1)
        self.upsample_3 = _Upsample(layout / "upsample_3")
        self.up_residual_conv3 = _Residual(layout / "up_residual_conv3", 1)
        self.output_layer = nn.Sequential(layout.conv("output_layer.0"), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 1, frames, pose) -> the same shape, 0 to 1."""
        x1 = self.input_layer(x) + self.input_skip(x)
        x2 = self.residual_conv_1(x1)
        x3 = self.residual_conv_2(x2)
        y = self.upsample_1(self.bridge(x3))
        y = self.upsample_2(self.up_residual_conv1(torch.cat([y, x3], dim=1)))
        y = self.upsample_3(self.up_residual_conv2(torch.cat([y, x2], dim=1)))
        result: Tensor = self.output_layer(self.up_residual_conv3(torch.cat([y, x1], dim=1)))
        return result


class _Mlp(nn.Module):
    """Two linear layers with ReLU between and a sigmoid behind."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.L0 = layout.linear("L0")
        self.L1 = layout.linear("L1")

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.L1(F.relu(self.L0(x))))


class PoseDecoder(nn.Module):
    """The decoder: an MLP makes a first guess of a block, which the U-Net and a linear layer refine."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.n_styles, self.n_latent = layout.shape("classbias", 2)
        self.classbias = nn.Parameter(torch.zeros(self.n_styles, self.n_latent))
        self.resunet = ResUnet(layout / "resunet")
        self.MLP = _Mlp(layout / "MLP")
        self.pose_linear = layout.linear("pose_linear")
        self.linear_audio = layout.linear("linear_audio")
        self.n_pose = layout.shape("pose_linear.weight", 2)[0]
        self.n_frames = layout.shape("MLP.L1.weight", 2)[0] // self.n_pose

    def forward(self, audio: Tensor, z: Tensor, style: Tensor, source_pose: Tensor) -> Tensor:
        """audio: (B, 32, 512) embeddings; z: (B, 64); style: (B,) int; source_pose: (B, 6) -> (B, 32, 6) motion."""
        B = len(audio)
        heard = self.linear_audio(audio).flatten(1)
        x = torch.cat([source_pose, z + self.classbias[style], heard], dim=1)
        x = self.MLP(x)
        x = self.resunet(x.reshape(B, 1, self.n_frames, self.n_pose))
        motion: Tensor = self.pose_linear(x.reshape(B, self.n_frames, self.n_pose))
        return motion


class _SpeechEncoder(nn.Module):
    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.audio_encoder = AudioEncoder(layout / "audio_encoder")


class _Generator(nn.Module):
    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.decoder = PoseDecoder(layout / "decoder")


class PoseVAE(nn.Module):
    """The half of PoseVAE that inference needs: its audio encoder and the decoder."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.audio_encoder = _SpeechEncoder(layout / "audio_encoder")
        self.netG = _Generator(layout / "netG")

    @property
    def decoder(self) -> PoseDecoder:
        """The part of the network that is used without its encoder."""
        return self.netG.decoder

    def embed(self, windows: Tensor) -> Tensor:
        """(B, 1, 80, 16) mel windows -> (B, 512)."""
        embedding: Tensor = self.audio_encoder.audio_encoder(windows)
        return embedding.flatten(1)
