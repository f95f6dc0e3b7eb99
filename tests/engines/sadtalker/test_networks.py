"""Every network and block against the golden data, as loaded and as fused for speed."""

import json
from collections.abc import Callable, Iterator
from hashlib import sha256

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lipsync_server.engines.sadtalker.audio.audio_nets import AudioBlock, ExpNet
from lipsync_server.engines.sadtalker.audio.pose_track import PoseTrack, smooth
from lipsync_server.engines.sadtalker.audio.pose_vae import PoseVAE, ResUnet
from lipsync_server.engines.sadtalker.face.reconstruction import Bottleneck, FaceReconstruction
from lipsync_server.engines.sadtalker.layout import Layout, fold_spectral_norm
from lipsync_server.engines.sadtalker.loading.model_files import build
from lipsync_server.engines.sadtalker.loading.official import Dimensions, combined
from lipsync_server.engines.sadtalker.loading.official import mapping as mapping_shapes
from lipsync_server.engines.sadtalker.renderer import blocks, spade
from lipsync_server.engines.sadtalker.renderer.generator import Generator
from lipsync_server.engines.sadtalker.renderer.keypoints import KeypointDetector, KeypointHourglass
from lipsync_server.engines.sadtalker.renderer.mapping import (
    HeadPose,
    MappingNet,
    bins_to_degrees,
    posed_keypoints,
    rotation,
)
from lipsync_server.engines.sadtalker.renderer.motion import DenseMotion
from lipsync_server.engines.sadtalker.renderer.renderer import Angles, Renderer, channels_last, delayed
from lipsync_server.engines.sadtalker.renderer.volume_conv import VolumeConv, use_volume_convs
from lipsync_server.random_models.sadtalker import random_tensors
from sadtalker_golden import (
    FILES,
    SALT,
    big,
    block,
    recipe_mapping,
    recipe_network,
    recipe_tensor,
    small,
    within,
)
from safetensors.torch import load_file
from torch import Tensor, nn

BLOCK_LIMIT = 5e-5


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    with torch.inference_mode():
        yield


def picture(pixels: Tensor) -> Tensor:
    return pixels.permute(2, 0, 1)[None].float() / 255


def golden(name: str) -> dict[str, Tensor]:
    return load_file(small(f"modules/{name}.safetensors"))


def filled(name: str, network: Callable[[Layout], nn.Module]) -> tuple[nn.Module, dict[str, Tensor]]:
    _, weights, data = block(name)
    return build(network, weights, name, "golden data"), data


def test_the_weight_recipe_is_followed() -> None:
    for name, wanted in json.loads(small("weight_recipe_check.json").read_text()).items():
        name, _, salt_end = name.partition(" ")
        tensor = recipe_tensor(name, tuple(wanted["shape"]), SALT + (":73" if salt_end else ""))
        assert tensor.flatten()[:4].tolist() == wanted["first4"]
        assert sha256(tensor.numpy().tobytes()).hexdigest() == wanted["sha256_of_float32_bytes"]


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("audio_conv_residual", lambda layout: AudioBlock(layout, 1, 1, True)),
        ("down2d", blocks.Down2d),
        ("same2d_lrelu", lambda layout: blocks.ConvNorm2d(layout, leaky=True)),
        ("resblock3d", blocks.ResidualBlock3d),
        ("hourglass3d", blocks.Hourglass3d),
        ("kp_hourglass", KeypointHourglass),
        ("res_unet", ResUnet),
        ("resnet_bottleneck", lambda layout: Bottleneck(layout, 2)),
    ],
)
def test_blocks_meet_the_golden_data_with_and_without_folded_norms(
    name: str, network: Callable[[Layout], nn.Module]
) -> None:
    module, data = filled(name, network)
    within(f"block {name}", BLOCK_LIMIT, module(data["in.x"]), data["out.y"])
    parent = nn.Sequential(module)
    blocks.fold_batch_norms(parent)
    within(f"block {name}, norms folded", BLOCK_LIMIT, parent(data["in.x"]), data["out.y"])


def test_small_keypoint_detector_meets_the_golden_data() -> None:
    network, data = filled("kp_detector", KeypointDetector)
    assert isinstance(network, KeypointDetector)
    within("block kp_detector, down", BLOCK_LIMIT, network.down(data["in.image"]), data["out.down"])
    within("block kp_detector, features", BLOCK_LIMIT, network.predictor(data["out.down"]), data["out.features"])
    within("block kp_detector, keypoints", BLOCK_LIMIT, network(data["in.image"]), data["out.kp"])


def test_small_mapping_net_meets_the_golden_data() -> None:
    network, data = filled("mapping", MappingNet)
    assert isinstance(network, MappingNet)
    for name, value in network.heads(data["in.semantics"]).items():
        within(f"block mapping, {name}", BLOCK_LIMIT, value, data[f"out.{name}"])


def test_small_dense_motion_meets_the_golden_data() -> None:
    network, data = filled("dense_motion", DenseMotion)
    assert isinstance(network, DenseMotion)
    source = network.prepare(data["in.feature"], data["in.kp_source"])
    motion = network(source, data["in.kp_driving"])
    within("block dense_motion, flow", BLOCK_LIMIT, motion.flow, data["out.deformation"])
    within("block dense_motion, mask", BLOCK_LIMIT, motion.mask, data["out.mask"])
    within("block dense_motion, occlusion", BLOCK_LIMIT, motion.occlusion, data["out.occlusion_map"])
    within("block dense_motion, hourglass input", BLOCK_LIMIT, motion.hourglass_input, data["out.hourglass_in"])
    heatmaps = motion.hourglass_input.unflatten(1, (5, -1))[:, :, :1]
    within("block dense_motion, heat maps", BLOCK_LIMIT, heatmaps, data["out.heatmap"])


@pytest.mark.parametrize("name", ["spade_identity_shortcut", "spade_learned_shortcut"])
def test_spade_blocks_meet_the_golden_data_plain_and_fused(name: str) -> None:
    network, data = filled(name, spade.SpadeBlock)
    assert isinstance(network, spade.SpadeBlock)
    x, feature = data["in.x"], data["in.seg"]
    hidden = [norm.hidden(feature, (x.shape[2], x.shape[3])) for norm in network.norms()]
    within(f"block {name}, norm", BLOCK_LIMIT, network.norm_0(F.instance_norm(x), hidden[0]), data["out.norm0"])
    within(f"block {name}", BLOCK_LIMIT, network(x, hidden), data["out.y"])
    merged = spade.MergedHidden(network.norms(), 2)(feature)
    for norm in network.norms():
        norm.fuse()
    within(f"block {name}, fused", BLOCK_LIMIT, network(x, list(merged)), data["out.y"])


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_merged_modulation_equals_convolving_the_upsampled_map(factor: int) -> None:
    network, data = filled("spade_learned_shortcut", spade.SpadeBlock)
    assert isinstance(network, spade.SpadeBlock)
    feature = torch.cat([data["in.seg"], data["in.seg"].flip(3)])[:, :, :5]  # not square
    size = (feature.shape[2] * factor, feature.shape[3] * factor)
    merged = spade.MergedHidden(network.norms(), factor)(feature)
    for norm, hidden in zip(network.norms(), merged, strict=True):
        assert torch.allclose(hidden, norm.hidden(feature, size), atol=1e-5)


def test_grids_heat_maps_and_warping_meet_the_golden_data() -> None:
    _, _, data = block("functional")
    within("coordinate grid", BLOCK_LIMIT, blocks.coordinate_grid(3, 4, 5), data["coordinate_grid_d3_h4_w5"])
    heatmaps = blocks.keypoint_heatmaps(data["gaussian.in.kp"], blocks.coordinate_grid(3, 4, 5))
    within("heat maps", BLOCK_LIMIT, heatmaps, data["gaussian.out_d3_h4_w5_var0.01"])
    flow = F.interpolate(data["deform.in.deformation"].permute(0, 4, 1, 2, 3), size=(4, 6, 6), mode="trilinear")
    warped = blocks.warp(data["deform.in.feature"], flow.permute(0, 2, 3, 4, 1))
    within("warp", BLOCK_LIMIT, warped, data["deform.out"])


def test_expression_network_meets_the_golden_data() -> None:
    network, data = recipe_network(ExpNet, "audio2exp"), golden("expnet")
    windows = data["in.mel"][0]
    within("ExpNet, embedding", 1e-4, network.audio_encoder(windows).flatten(1), data["mid.audio_embedding"])
    within("ExpNet", 1e-4, network(windows, data["in.ref"][0], data["in.ratio"][0]), data["out.exp"][0])


def test_pose_network_meets_the_golden_data() -> None:
    network, data = recipe_network(PoseVAE, "audio2pose"), golden("audio2pose")
    windows = data["in.mel"][0]
    within("PoseVAE, embedding", 1e-4, network.embed(windows), data["audio_embedding"][0])
    within("PoseVAE, U-Net", 1e-4, network.decoder.resunet(data["resunet.in"]), data["resunet.out"])
    style = data["decoder.in.style"].expand(2)
    motion = network.decoder(data["decoder.in.audio_emb"], data["decoder.in.z"], style, data["decoder.in.ref"])
    within("PoseVAE, decoder", 1e-4, motion, data["decoder.out.pose_motion"])
    for case in ("T75_style0", "T33_style7", "T20_style45", "T2_style12"):
        n_frames, style_index = (int(part.strip("Tstyle")) for part in case.split("_"))
        noise = data[f"case_{case}.z"][:, 0]
        track = PoseTrack(
            network,
            lambda first, stop: windows[first:stop],
            n_frames,
            data["in.ref_pose"][0],
            style=style_index,
            noise=noise.__getitem__,
            join="independent",
        )
        within(f"pose {case}", 1e-4, track.raw(0, n_frames), data[f"case_{case}.out.pose"][0])
        smoothed = data.get(f"case_{case}.out.pose_smoothed")
        if smoothed is not None:
            within(f"pose {case}, smoothed", 1e-4, track.rows(0, n_frames), smoothed[0])


def test_smoothing_meets_the_golden_data() -> None:
    data = golden("audio2pose")
    for n in (3, 4, 5, 11, 12, 13, 14, 40):
        within(
            f"smoothing of {n} frames", 1e-4, smooth(data[f"savgol.L{n}.in"][0].numpy()), data[f"savgol.L{n}.out"][0]
        )


def test_face_network_meets_the_golden_data() -> None:
    network, data = recipe_network(FaceReconstruction, "face_3drecon"), golden("face_recon")
    coefficients = network(picture(data["in.image_u8"]))
    within("face network", 2e-4, coefficients, data["out.coeffs"])
    parts = {"id": (0, 80), "exp": (80, 144), "tex": (144, 224), "angle": (224, 227), "gamma": (227, 254)}
    for name, (first, stop) in parts.items():
        within(f"face network, {name}", 2e-4, coefficients[:, first:stop], data[f"out.{name}"])


@pytest.mark.parametrize("n", [70, 73])
def test_mapping_networks_meet_the_golden_data(n: int) -> None:
    network, data = recipe_mapping(n), golden("mapping")
    for name, value in network.heads(data[f"m{n}.in"]).items():
        limit = 1e-5 if name in ("t", "exp") else 1e-4
        within(f"MappingNet {n}, {name}", limit, value, data[f"m{n}.out.{name}"])
    pose = network(data[f"m{n}.in"])
    for name in ("yaw", "pitch", "roll"):
        within(f"MappingNet {n}, degrees of {name}", 1e-4, getattr(pose, name), data[f"m{n}.degrees.{name}"])


def test_keypoints_are_moved_as_in_the_golden_data() -> None:
    data = golden("keypoint_transformation")
    yaw, pitch, roll = (bins_to_degrees(data[f"in.{name}"]) for name in ("yaw", "pitch", "roll"))
    pose = HeadPose(yaw, pitch, roll, data["in.t"], data["in.exp"].reshape(3, -1, 3))
    within("keypoint transformation, rotation", 1e-5, rotation(yaw, pitch, roll), data["mid.rotation"])
    within("keypoint transformation", 1e-5, posed_keypoints(data["in.kp"], pose), data["out.kp"])
    given = {name: data[f"override.in.{name}_in"] for name in ("yaw", "pitch", "roll")}
    moved = posed_keypoints(data["in.kp"], Angles(**given).over(pose))
    within("keypoint transformation, angles given", 1e-5, moved, data["override.out.kp"])
    moved = posed_keypoints(data["in.kp"], Angles(yaw=given["yaw"]).over(pose))
    within("keypoint transformation, yaw given", 1e-5, moved, data["override_yaw_only.out.kp"])


def test_spectral_norm_is_folded_as_in_the_golden_data() -> None:
    vectors = load_file(big("modules/generator_spectral_vectors.safetensors"))
    shapes = combined()
    for name, sigma in json.loads(small("generator_spectral_sigmas.json").read_text()).items():
        original = recipe_tensor(f"{name}_orig", shapes[f"{name}_orig"])
        tensors = {f"{name}_orig": original, **{f"{name}_{part}": vectors[f"{name}_{part}"] for part in "uv"}}
        folded = fold_spectral_norm(tensors)[name]
        within(f"sigma of {name.removesuffix('.weight')}", 1e-5, (original / folded).median(), sigma, relative=True)


@pytest.mark.parametrize("name", [name for name in FILES.cases("modules/kp_detector.safetensors") if name[0] == "s"])
def test_keypoints_meet_the_golden_data(name: str) -> None:
    data = load_file(big("modules/kp_detector.safetensors"))
    network = recipe_network(KeypointDetector, "kp_extractor")
    limit = {"s256": 3e-4, "s512": 5e-4}[name]
    within(f"keypoints {name[1:]}", limit, network(picture(data[f"{name}.in.image_u8"])), data[f"{name}.out.kp"])


@pytest.fixture(scope="module")
def fused_generator() -> Generator:
    """At the published width. Its random weights cost four seconds of CPU time."""
    network = recipe_network(Generator, "generator")
    network.fuse()
    channels_last(network)
    return network


@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", FILES.present("modules/generator_{}.safetensors", ["256", "512"]))
def test_the_whole_generator_meets_the_golden_data(size: str, fused_generator: Generator) -> None:
    """At the published width: 11 s of CPU time at 256, 50 s at 512."""
    data = load_file(big(f"modules/generator_{size}.safetensors"))
    network = fused_generator
    source = network.prepare(picture(data["in.image_u8"]), data["in.kp_source"])
    feature, motion = network.features(source, data["in.kp_driving"])
    prediction = network.decoder(feature)
    case = f"generator {size}"
    if size == "256":
        within(f"{case}, flow", 1e-3, motion.flow[:, ::2, ::2, ::2], data["mid.deformation_stride"])
        within(f"{case}, occlusion", 1e-4, motion.occlusion, data["out.occlusion_map"])
        wanted = data["out.prediction"]
        step = prediction.shape[-1] // wanted.shape[-1]  # the committed file has every second pixel
        compared = prediction[:, :, ::step, ::step]
    else:
        within(f"{case}, occlusion", 1e-4, motion.occlusion[:, :, ::2, ::2], data["out.occlusion_map_stride2"])
        within(f"{case}, corner, max", 5e-3, prediction[:, :, 200:264, 230:294], data["out.prediction_corner64"])
        compared, wanted = prediction[:, :, ::4, ::4], data["out.prediction_stride4"]
    within(f"{case}, prediction, mean", 2e-5, compared, wanted, mean=True)
    within(f"{case}, prediction, max", 5e-3, compared, wanted)


@pytest.fixture(scope="module")
def whole_renderer() -> Renderer:
    """At the published width."""
    detector, generator = recipe_network(KeypointDetector, "kp_extractor"), recipe_network(Generator, "generator")
    return Renderer(detector, generator, device=torch.device("cpu"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FILES.cases("modules/make_animation.safetensors"))
def test_animation_meets_the_golden_data(name: str, whole_renderer: Renderer) -> None:
    """One frame of each run: a frame takes 11 s of CPU time and depends on no other frame."""
    data = load_file(big("modules/make_animation.safetensors"))
    renderer = whole_renderer
    n = int(name[1:])
    mapping = recipe_mapping(n)
    source = renderer.prepare(data["in.image_u8"], data[f"{name}.in.source_semantics"], mapping)
    targets = data[f"{name}.in.target_semantics"][:, 0]
    # One frame takes 11 s of CPU time: the first one as the sound moves the head, or the last one from given angles.
    # test_pipeline has a frame whose head is moved by sound and by 70 coefficients.
    run, rows, angles = "out", slice(0, 1), None
    if n == 70:
        run, rows = "free_view.out", slice(len(targets) - 1, len(targets))
        angles = Angles(**{part: data[f"m70.free_view.in.{part}"][rows, 0] for part in ("yaw", "pitch", "roll")})
    frames = renderer.frames(source, targets[rows], mapping, angles=angles)[:, :, ::2, ::2]
    wanted = data[f"{name}.{run}.frames_stride2"][rows, 0]
    within(f"make_animation {n} {run}, mean", 3e-4, frames, wanted, mean=True)
    within(f"make_animation {n} {run}, max", 3e-2, frames, wanted)


def tiny_generator() -> Generator:
    dimensions = Dimensions(width=1 / 16, depth=4, n_keypoints=4, compressed=2, mask_kernel=3)
    tensors = random_tensors(combined(dimensions))
    weights = {name[10:]: value for name, value in tensors.items() if name.startswith("generator.")}
    return build(Generator, weights, "generator", "random weights")


def test_the_fused_generator_renders_what_the_plain_one_renders() -> None:
    plain, fused = tiny_generator(), tiny_generator()
    fused.fuse()
    channels_last(fused)
    square, keypoints = torch.rand(1, 3, 128, 128), torch.rand(1, 4, 3) - 0.5
    driving = keypoints + 0.1 * torch.randn(3, 4, 3)
    results = [network(network.prepare(square, keypoints), driving) for network in (plain, fused)]
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-5)
    assert results[0].std() > 0.01


@pytest.mark.parametrize(("inputs", "outputs", "kernel"), [(80, 64, 3), (5, 7, 3), (112, 16, 7), (6, 3, 5)])
def test_slice_wise_convolutions_equal_volume_ones(inputs: int, outputs: int, kernel: int) -> None:
    conv = nn.Conv3d(inputs, outputs, kernel, padding=kernel // 2)
    volume = torch.randn(2, inputs, 6, 9, 11)
    assert torch.allclose(VolumeConv(conv)(volume), conv(volume), atol=2e-5)


def test_the_generator_renders_the_same_with_slice_wise_convolutions() -> None:
    plain, sliced = tiny_generator(), tiny_generator()
    for network in (plain, sliced):
        network.fuse()
    use_volume_convs(sliced.dense_motion_network)
    channels_last(sliced)
    assert not any(isinstance(m, nn.Conv3d) and m.kernel_size[0] > 1 for m in sliced.dense_motion_network.modules())
    square, keypoints = torch.rand(1, 3, 128, 128), torch.rand(1, 4, 3) - 0.5
    driving = keypoints + 0.1 * torch.randn(2, 4, 3)
    results = [network(network.prepare(square, keypoints), driving) for network in (plain, sliced)]
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-5)


def _noted(made: list[int]) -> Iterator[int]:
    for number in range(5):
        made.append(number)
        yield number


def test_batches_computed_ahead_come_out_in_order_and_complete() -> None:
    for n_items in range(4):
        for n in range(4):
            assert list(delayed(range(n_items), n)) == list(range(n_items))
    made: list[int] = []
    items = delayed(_noted(made), 2)
    assert (next(items), made) == (0, [0, 1, 2])


def test_warming_up_renders_a_batch_of_the_jobs_size() -> None:
    dimensions = Dimensions(width=1 / 32, depth=4, n_keypoints=4, compressed=2, mask_kernel=3)
    tensors = random_tensors(combined(dimensions))
    parts = {
        name: {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
        for name in ("kp_extractor", "generator")
    }
    detector = build(KeypointDetector, parts["kp_extractor"], "kp_extractor", "random weights")
    generator = build(Generator, parts["generator"], "generator", "random weights")
    weights = random_tensors(mapping_shapes(73, dimensions))
    renderer = Renderer(detector, generator, device=torch.device("cpu"))
    shapes: list[tuple[int, ...]] = []
    generator.register_forward_hook(lambda module, given, frames: shapes.append(tuple(frames.shape)))
    renderer.warm_up(128, 2, build(MappingNet, weights, "mapping", "random weights"))
    assert shapes == [(2, 3, 128, 128)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_renders_nearly_the_same_picture(dtype: torch.dtype) -> None:
    network = tiny_generator()
    network.fuse()
    square, keypoints = torch.rand(1, 3, 128, 128), torch.rand(1, 4, 3) - 0.5
    driving = keypoints + 0.1 * torch.randn(2, 4, 3)
    exact = network(network.prepare(square, keypoints), driving)
    network.to(dtype)
    half = network(network.prepare(square, keypoints), driving).float()
    assert (half - exact).abs().mean() < (0.01 if dtype == torch.float16 else 0.03)


def test_frames_of_a_batch_do_not_touch_each_other() -> None:
    network = tiny_generator()
    network.fuse()
    square, keypoints = torch.rand(1, 3, 128, 128), torch.rand(1, 4, 3) - 0.5
    source = network.prepare(square, keypoints)
    driving = keypoints + 0.1 * torch.randn(4, 4, 3)
    together = network(source, driving)
    alone = torch.cat([network(source, row[None]) for row in driving])
    assert np.allclose(together, alone, atol=1e-5)
