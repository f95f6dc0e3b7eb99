"""The list of the tensors in the published files, name by name, at any width of the networks.

Used to check that nothing is missing or surplus, and to make stand-ins with random weights (random_models/sadtalker.py,
bench.py). At width 1 the list equals that of the published files. Knows no numbers, only shapes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

Shapes = dict[str, tuple[int, ...]]
Entry = tuple[str, tuple[int, ...]]
_Width = Callable[[int], int]  # scales a channel count

COMBINED = "SadTalker_V0.0.2_{size}.safetensors"
MAPPING_70, MAPPING_73 = "mapping_00229-model.pth.tar", "mapping_00109-model.pth.tar"
SIZES = (256, 512)

# Parts of the combined file that only training used: the VAE's encoder and its discriminator.
UNUSED_PREFIXES = ("audio2pose.netG.encoder.", "audio2pose.netD_motion.")

N_EXPRESSION, N_POSE, N_STYLES, N_LATENT, N_BLOCK_FRAMES = 64, 6, 46, 64, 32


@dataclass(frozen=True)
class Dimensions:
    """The numbers on which the size of the files depends. The defaults are the numbers of the published files.

    width: factor on the networks' channels. depth, compressed: of the feature volume and of dense motion's copy of it.
    """

    width: float = 1.0
    depth: int = 16
    n_keypoints: int = 15
    compressed: int = 4
    mask_kernel: int = 7

    def channels(self, published: int) -> int:
        """The number of channels where the published network has `published`; at least 2."""
        return max(2, round(published * self.width))


PUBLISHED = Dimensions()


def combined(dimensions: Dimensions = PUBLISHED) -> Shapes:
    """Tensors of the combined file."""
    w = dimensions.channels

    entries = [
        *_keypoint_detector(dimensions),
        *_generator(dimensions),
        *_under("audio2exp.", [*_audio_encoder("audio_encoder.", w), *_linear("mapping1", w(512) + 65, N_EXPRESSION)]),
        *_under("audio2pose.", _pose_vae(w)),
        *_under("face_3drecon.", _face_reconstruction(w)),
    ]
    return dict(entries)


def mapping(n_coefficients: int, dimensions: Dimensions = PUBLISHED) -> Shapes:
    """Tensors below `mapping` in a mapping file of 70 or 73 coefficients."""
    hidden = dimensions.channels(1024)
    entries = [*_conv("first.0", n_coefficients, hidden, 7)]
    for i in range(3):
        entries += _conv(f"encoder{i}.1", hidden, hidden, 3)
    for name, n in (("roll", 66), ("pitch", 66), ("yaw", 66), ("t", 3), ("exp", 3 * dimensions.n_keypoints)):
        entries += _linear(f"fc_{name}", hidden, n)
    return dict(entries)


def _under(prefix: str, entries: list[Entry]) -> Iterator[Entry]:
    return ((prefix + name, shape) for name, shape in entries)


def _conv(name: str, inputs: int, outputs: int, *kernel: int, bias: bool = True) -> list[Entry]:
    weight = (f"{name}.weight", (outputs, inputs, *kernel))
    return [weight, (f"{name}.bias", (outputs,))] if bias else [weight]


def _linear(name: str, inputs: int, outputs: int) -> list[Entry]:
    return _conv(name, inputs, outputs)


def _norm(name: str, n: int) -> list[Entry]:
    vectors: list[Entry] = [(f"{name}.{part}", (n,)) for part in ("weight", "bias", "running_mean", "running_var")]
    return [*vectors, (f"{name}.num_batches_tracked", ())]


def _conv_norm(name: str, inputs: int, outputs: int, *kernel: int) -> list[Entry]:
    return [*_conv(f"{name}.conv", inputs, outputs, *kernel), *_norm(f"{name}.norm", outputs)]


def _spectral(name: str, inputs: int, outputs: int, kernel: int, bias: bool = True) -> list[Entry]:
    entries: list[Entry] = [(f"{name}.bias", (outputs,))] if bias else []
    return [
        *entries,
        (f"{name}.weight_orig", (outputs, inputs, kernel, kernel)),
        (f"{name}.weight_u", (outputs,)),
        (f"{name}.weight_v", (inputs * kernel * kernel,)),
    ]


def _keypoint_detector(dimensions: Dimensions) -> Iterator[Entry]:
    w = dimensions.channels
    entries: list[Entry] = []
    widths = [w(n) for n in (64, 128, 256, 512, 1024)]
    for i, (inputs, outputs) in enumerate(zip([3, *widths], widths, strict=False)):
        entries += _conv_norm(f"predictor.down_blocks.down{i}", inputs, outputs, 3, 3)
    entries += _conv("predictor.conv", widths[-1], widths[-1] * dimensions.depth, 1, 1)
    ups = [widths[-1], *(w(n) for n in (512, 256, 128, 64, 32))]
    for i, (inputs, outputs) in enumerate(pairwise(ups)):
        entries += _conv_norm(f"predictor.up_blocks.up{i}", inputs, outputs, 3, 3, 3)
    entries += _conv("kp", ups[-1], dimensions.n_keypoints, 3, 3, 3)
    entries.append(("down.weight", (3, 1, 13, 13)))
    return _under("kp_extractor.", entries)


def _generator(dimensions: Dimensions) -> Iterator[Entry]:
    w, depth, channels = dimensions.channels, dimensions.depth, dimensions.channels(32)
    entries = [*_dense_motion(dimensions)]
    entries += _conv_norm("first", 3, w(64), 3, 3)
    entries += _conv_norm("down_blocks.0", w(64), w(128), 3, 3)
    entries += _conv_norm("down_blocks.1", w(128), w(256), 3, 3)
    entries += _conv("second", w(256), channels * depth, 1, 1)
    for i in range(6):
        name = f"resblocks_3d.3dr{i}"
        for part in ("conv1", "conv2"):
            entries += _conv(f"{name}.{part}", channels, channels, 3, 3, 3)
        for part in ("norm1", "norm2"):
            entries += _norm(f"{name}.{part}", channels)
    entries += _conv_norm("third", channels * depth, w(256), 3, 3)
    entries += _conv("fourth", w(256), w(256), 1, 1)
    entries += _spade_decoder(w)
    return _under("generator.", entries)


def _dense_motion(dimensions: Dimensions) -> Iterator[Entry]:
    w, compressed, kernel = dimensions.channels, dimensions.compressed, dimensions.mask_kernel
    n_candidates = dimensions.n_keypoints + 1
    n_inputs = n_candidates * (compressed + 1)
    downs = [n_inputs, *(w(n) for n in (64, 128, 256, 512, 1024))]
    entries: list[Entry] = []
    for i, (inputs, outputs) in enumerate(pairwise(downs)):
        entries += _conv_norm(f"hourglass.encoder.down_blocks.{i}", inputs, outputs, 3, 3, 3)
    ups = [w(n) for n in (512, 256, 128, 64, 32)]
    inputs = downs[-1]
    for i, (outputs, skip) in enumerate(zip(ups, downs[-2::-1], strict=True)):
        entries += _conv_norm(f"hourglass.decoder.up_blocks.{i}", inputs, outputs, 3, 3, 3)
        inputs = outputs + skip
    entries += _conv_norm("hourglass.decoder", inputs, inputs, 3, 3, 3)
    entries += _conv("mask", inputs, n_candidates, kernel, kernel, kernel)
    entries += _conv("compress", w(32), compressed, 1, 1, 1)
    entries += _norm("norm", compressed)
    entries += _conv("occlusion", inputs * dimensions.depth, 1, kernel, kernel)
    return _under("dense_motion_network.", entries)


def _spade_decoder(w: _Width) -> Iterator[Entry]:
    label, hidden = w(256), w(128)
    entries = [*_conv("fc", label, w(512), 3, 3)]
    blocks = [*((f"G_middle_{i}", 512, 512) for i in range(6)), ("up_0", 512, 256), ("up_1", 256, 64)]
    for name, full_in, full_out in blocks:
        fin, fout = w(full_in), w(full_out)
        middle = min(fin, fout)
        entries += _spectral(f"{name}.conv_0", fin, middle, 3) + _spectral(f"{name}.conv_1", middle, fout, 3)
        norms = [("norm_0", fin), ("norm_1", middle)]
        if full_in != full_out:
            entries += _spectral(f"{name}.conv_s", fin, fout, 1, bias=False)
            norms.append(("norm_s", fin))
        for norm, n in norms:
            entries += _conv(f"{name}.{norm}.mlp_shared.0", label, hidden, 3, 3)
            entries += _conv(f"{name}.{norm}.mlp_gamma", hidden, n, 3, 3)
            entries += _conv(f"{name}.{norm}.mlp_beta", hidden, n, 3, 3)
    entries += _conv("conv_img", w(64), 3, 3, 3)
    return _under("decoder.", entries)


def _audio_encoder(prefix: str, w: _Width) -> Iterator[Entry]:
    widths = [1, *(w(n) for n in (32, 32, 32, 64, 64, 64, 128, 128, 128, 256, 256, 512, 512))]
    entries: list[Entry] = []
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        kernel = 1 if i == 12 else 3
        entries += _conv(f"{i}.conv_block.0", inputs, outputs, kernel, kernel)
        entries += _norm(f"{i}.conv_block.1", outputs)
    return _under(prefix, entries)


def _res_unet(prefix: str, w: _Width) -> Iterator[Entry]:
    a, b, c, d = (w(n) for n in (32, 64, 128, 256))
    entries = [*_conv("input_layer.0", 1, a, 3, 3), *_norm("input_layer.1", a), *_conv("input_layer.3", a, a, 3, 3)]
    entries += _conv("input_skip.0", 1, a, 3, 3)

    def residual(name: str, inputs: int, outputs: int) -> None:
        entries.extend(_norm(f"{name}.conv_block.0", inputs))
        entries.extend(_conv(f"{name}.conv_block.2", inputs, outputs, 3, 3))
        entries.extend(_norm(f"{name}.conv_block.3", outputs))
        entries.extend(_conv(f"{name}.conv_block.5", outputs, outputs, 3, 3))
        entries.extend(_conv(f"{name}.conv_skip.0", inputs, outputs, 3, 3))
        entries.extend(_norm(f"{name}.conv_skip.1", outputs))

    residual("residual_conv_1", a, b)
    residual("residual_conv_2", b, c)
    residual("bridge", c, d)
    for i, (inputs, skip) in enumerate(((d, c), (c, b), (b, a)), start=1):
        entries += _conv(f"upsample_{i}.upsample", inputs, inputs, 2, 1)
        residual(f"up_residual_conv{i}", inputs + skip, skip)
    entries += _conv("output_layer.0", a, 1, 1, 1)
    return _under(prefix, entries)


def _pose_vae(w: _Width) -> list[Entry]:
    audio, hidden, n_picture = w(512), w(128), N_BLOCK_FRAMES * N_POSE
    entries = [*_audio_encoder("audio_encoder.audio_encoder.", w)]
    for half, n_inputs in (("encoder", 2 * n_picture + N_POSE + N_LATENT), ("decoder", n_picture + N_POSE + N_LATENT)):
        prefix = f"netG.{half}."
        entries.append((f"{prefix}classbias", (N_STYLES, N_LATENT)))
        entries += _res_unet(f"{prefix}resunet.", w)
        entries += _linear(f"{prefix}MLP.L0", n_inputs, hidden)
        if half == "encoder":
            entries += _linear(f"{prefix}linear_means", hidden, N_LATENT)
            entries += _linear(f"{prefix}linear_logvar", hidden, N_LATENT)
        else:
            entries += _linear(f"{prefix}MLP.L1", hidden, n_picture)
            entries += _linear(f"{prefix}pose_linear", N_POSE, N_POSE)
        entries += _linear(f"{prefix}linear_audio", audio, N_POSE)
    widths = (N_POSE, w(256), w(512), w(1024))
    for i, kernel in enumerate((4, 4, 3)):
        entries += _conv(f"netD_motion.seq.{i}.conv", widths[i], widths[i + 1], kernel, bias=False)
        entries += _norm(f"netD_motion.seq.{i}.norm", widths[i + 1])
    return [*entries, *_conv("netD_motion.seq.3", widths[3], 1, 3)]


def _face_reconstruction(w: _Width) -> list[Entry]:
    inputs = w(64)
    entries = [*_conv("backbone.conv1", 3, inputs, 7, 7, bias=False), *_norm("backbone.bn1", inputs)]
    for layer, n_blocks in enumerate((3, 4, 6, 3), start=1):
        planes = w(64 << (layer - 1))
        for i in range(n_blocks):
            name = f"backbone.layer{layer}.{i}"
            for part, (fan_in, fan_out, k) in enumerate(
                ((inputs, planes, 1), (planes, planes, 3), (planes, 4 * planes, 1)), start=1
            ):
                entries += _conv(f"{name}.conv{part}", fan_in, fan_out, k, k, bias=False)
                entries += _norm(f"{name}.bn{part}", fan_out)
            if i == 0:
                entries += _conv(f"{name}.downsample.0", inputs, 4 * planes, 1, 1, bias=False)
                entries += _norm(f"{name}.downsample.1", 4 * planes)
            inputs = 4 * planes
    for i, n in enumerate((80, 64, 80, 3, 27, 2, 1)):
        entries += _conv(f"final_layers.{i}", inputs, n, 1, 1)
    return entries
