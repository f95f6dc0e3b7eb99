"""Two complete short runs against the golden data, stage by stage, at the published size."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from lipsync_server.engines.sadtalker.audio.audio_nets import ExpNet
from lipsync_server.engines.sadtalker.audio.coefficients import (
    CoefficientTrack,
    TrackOptions,
    source_semantics,
    target_rows,
    windows_of,
)
from lipsync_server.engines.sadtalker.audio.mel import n_whole_frames
from lipsync_server.engines.sadtalker.audio.pose_vae import PoseVAE
from lipsync_server.engines.sadtalker.face.camera import camera_path
from lipsync_server.engines.sadtalker.face.geometry import align, cut, find_crop, resize
from lipsync_server.engines.sadtalker.face.paste import CropFrames
from lipsync_server.engines.sadtalker.face.reconstruction import FaceReconstruction
from lipsync_server.engines.sadtalker.face.source import read_coefficients
from lipsync_server.engines.sadtalker.renderer.generator import Generator
from lipsync_server.engines.sadtalker.renderer.keypoints import KeypointDetector
from lipsync_server.engines.sadtalker.renderer.renderer import Renderer, angles_for
from sadtalker_golden import FILES, arrays, big, levels_apart, note, recipe_mapping, recipe_network, within


@dataclass(frozen=True)
class Networks:
    """All networks at the published width. Their random weights cost seconds of CPU time."""

    renderer: Renderer
    face: FaceReconstruction
    exp_net: ExpNet
    pose_vae: PoseVAE


@pytest.fixture(scope="module")
def networks() -> Networks:
    detector, generator = recipe_network(KeypointDetector, "kp_extractor"), recipe_network(Generator, "generator")
    return Networks(
        renderer=Renderer(detector, generator, device=torch.device("cpu")),
        face=recipe_network(FaceReconstruction, "face_3drecon"),
        exp_net=recipe_network(ExpNet, "audio2exp"),
        pose_vae=recipe_network(PoseVAE, "audio2pose"),
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("run", FILES.cases("pipeline.npz"))
@torch.inference_mode()
def test_a_short_run_meets_the_golden_data(run: str, networks: Networks) -> None:
    """Every value of a run but its other frames: one frame is rendered, because each takes 11 s of CPU time.

    A frame is a function of the picture and of its own window of coefficients (test_networks.py holds that frames of a
    batch do not touch each other), and the windows of all frames are compared. A fault in another frame would therefore
    be one of its window, or one of the networks that all frames share.
    """
    data = arrays(big("pipeline.npz"))
    renderer, face = networks.renderer, networks.face
    exp_net, pose_vae = networks.exp_net, networks.pose_vae
    n_frames, style, still, scale, n_batch, full = data[f"{run}.options"]
    n_frames, n_batch = int(n_frames), int(n_batch)
    square = data[f"{run}.mid.crop_image_u8"]
    crop_height, crop_width = (int(side) for side in data[f"{run}.out.frame_hw"])
    if "in.image_u8" in data:  # The committed run begins with the square; test_geometry has the crop before it.
        picture = data["in.image_u8"]
        crop = find_crop(data["in.landmarks_full_image"], picture.shape[1], picture.shape[0], reference_clamp=True)
        crop_width, crop_height = crop.size
        assert np.array_equal(resize(cut(picture, crop, "full" if full else "crop"), 256, 256), square)
    coefficients = read_coefficients(face, align(square, data["in.landmarks_in_256_crop"]))
    wanted = data[f"{run}.mid.coeff_73_before_scaling"][0]
    within(f"pipeline {run}, coefficients", 5e-4, coefficients[:70], wanted[:70])
    within(f"pipeline {run}, crop", 1e-4, coefficients[70:], wanted[70:], relative=True)

    source = data[f"{run}.mid.coeff_73_used"][0][: 73 if full else 70]
    speech = data[f"{run}.in.wav_16k"]
    assert n_whole_frames(len(speech)) == n_frames
    options = TrackOptions(style=int(style), join="independent")
    track = CoefficientTrack(exp_net, pose_vae, speech, n_frames, source[:70], options)
    noise = torch.from_numpy(data[f"{run}.in.z"][:, 0])
    track.pose.noise = lambda index: noise[index]
    within(f"pipeline {run}, generated", 1e-4, track.rows(0, n_frames), data[f"{run}.mid.generated_coeff_70"])

    used = data[f"{run}.mid.generated_coeff_70_used"]
    rows = target_rows(used, source, expression_scale=float(scale), still=bool(still))
    windows = windows_of(lambda first, stop: rows[first:stop], n_frames, 0, n_frames)
    n_padded = -(-n_frames // n_batch) * n_batch
    padded = np.concatenate([windows, np.repeat(windows[-1:], n_padded - n_frames, axis=0)])
    batched = padded.reshape(n_batch, -1, *windows.shape[1:])
    within(f"pipeline {run}, target", 1e-6, batched, data[f"{run}.mid.target_semantics"])
    semantics = source_semantics(source)
    within(f"pipeline {run}, source", 1e-6, semantics, data[f"{run}.mid.source_semantics_first"][0])

    paths = {"yaw": camera_path([-10, 15], n_frames).tolist()} if run == "a" else {}
    mapping = recipe_mapping(73 if full else 70)
    prepared = renderer.prepare(torch.from_numpy(square), torch.from_numpy(semantics)[None], mapping)
    compositor = CropFrames(256, (crop_width, crop_height))
    # The frame at the end of the camera's path, or the first frame.
    number = n_frames - 1 if paths else 0
    angles = angles_for(paths, number, number + 1)
    squares = renderer.frames(prepared, torch.from_numpy(windows[number : number + 1]), mapping, angles=angles)
    video = compositor.place(compositor.blend(squares))
    assert list(video.shape[1:3]) == data[f"{run}.out.frame_hw"].tolist()
    off = levels_apart(video[:, ::2, ::2], data[f"{run}.out.frames_u8_stride2"][number : number + 1])
    note(f"pipeline {run}, frames, mean", 0.3, float(off.mean()))
    note(f"pipeline {run}, frames, share off by more than 1", 5e-3, float((off > 1).mean()))
