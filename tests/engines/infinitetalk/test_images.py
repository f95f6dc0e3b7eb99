"""Pictures as the model sees them: buckets, crops, masks, colours and 8-bit output, as the reference has them."""

import itertools

import numpy as np
import pytest
import torch
from infinitetalk_golden import equal, error, golden, golden_json, meets
from infinitetalk_reference import reference_box
from lipsync_server.engines.infinitetalk.video.images import (
    condition_mask,
    fit_masks,
    latent_masks,
    move_camera,
    person_masks,
    silent_neighbour,
)
from lipsync_server.engines.infinitetalk.video.sizes import BUCKETS, Resolution, choose_size
from lipsync_server.errors import InvalidInput
from lipsync_server.models.pictures import HostCopy, fit_picture, frame_picture, to_tensor, to_uint8
from lipsync_server.models.sampling.colour import ColourMatch

_TABLES: dict[str, Resolution] = {"ASPECT_RATIO_627": "480p", "ASPECT_RATIO_960": "720p"}
_SIZES: dict[str, Resolution] = {"infinitetalk-480": "480p", "infinitetalk-720": "720p"}
_MASKS = golden_json("H_images/masks.json")


def test_buckets_equal_the_references() -> None:
    tables = golden_json("H_images/buckets.json")
    for name, resolution in _TABLES.items():
        # The labels are lists, because the first of two equally near labels counts.
        theirs = [(float(k), tuple(v)) for k, v in tables[name].items()]
        equal(f"H buckets {resolution}", list(BUCKETS[resolution].items()), theirs)


def test_every_source_gets_the_references_size_and_crop() -> None:
    for choice in golden_json("H_images/buckets.json")["choices"]:
        source = choice["src_h"], choice["src_w"]
        for name, resolution in _SIZES.items():
            framing = frame_picture(source, choose_size(*source, resolution))
            expected = [
                choice[name][key] for key in ("target_h", "target_w", "resized_h", "resized_w", "crop_top", "crop_left")
            ]
            ours = [framing.height, framing.width, *framing.resized, framing.top, framing.left]
            equal(f"H size and crop of {source[1]} x {source[0]}, {resolution}", ours, expected)


@pytest.mark.parametrize("index", range(6))
def test_resize_crop_and_masks_are_exact(index: int) -> None:
    case = {
        k.removeprefix(f"rs{index}."): v for k, v in golden("H_images/resize.safetensors").items() if f"rs{index}." in k
    }
    target = (case["cropped_u8"].shape[-2], case["cropped_u8"].shape[-1])
    picture = fit_picture(case["source_u8"].numpy(), target)
    meets(
        f"H resize {index} picture",
        torch.from_numpy(np.array(picture)).permute(2, 0, 1),
        case["cropped_u8"][0, :, 0],
        0,
    )
    meets(f"H resize {index} normalised", to_tensor(picture), case["normalised"][0, :, 0], 0)
    masks = fit_masks(case["mask_source"].float().numpy(), target)
    meets(f"H resize {index} mask", masks, case["mask_nearest"].float(), 0)


@pytest.mark.parametrize("name", [name for name, case in _MASKS.items() if case["human_num"] == 2])
def test_person_masks_are_exact_once_the_axes_are_named_rightly(name: str) -> None:
    case = _MASKS[name]
    boxes = None
    if case["bbox"]:
        first, second = (reference_box(tuple(box)) for box in case["bbox"].values())
        boxes = first, second
    masks = latent_masks(person_masks(tuple(case["source_h_w"]), boxes), tuple(case["target_h_w"]))
    expected = golden("H_images/masks.safetensors")
    meets(f"H masks {name}", masks, expected[f"{name}.latent_mask"].float(), 0)
    # The same pictures at the transformer's resolution: every second row and column.
    meets(f"H masks {name}, tokens", masks[:, ::2, ::2], expected[f"{name}.token_mask"].float(), 0)


def test_our_boxes_mean_left_top_right_bottom() -> None:
    masks = person_masks((100, 200), ((10, 20, 60, 90), (120, 20, 180, 90)))
    rows, columns = np.nonzero(masks[0])
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (10, 20, 60, 90)


def test_a_box_too_small_for_the_model_is_refused_in_words() -> None:
    with pytest.raises(InvalidInput, match="first person's box"):
        latent_masks(person_masks((640, 640), ((10, 10, 14, 14), (300, 10, 600, 600))), (640, 640))


def test_the_others_are_beside_the_speaker() -> None:
    assert silent_neighbour((400, 600), (20, 50, 200, 390))[0] >= 200
    assert silent_neighbour((400, 600), (420, 50, 590, 390))[2] <= 420


def test_condition_mask_marks_the_first_latent_only() -> None:
    expected = golden("H_images/masks.safetensors")["y_mask_channels_5_frames"]
    meets("H y mask channels", condition_mask(2, 8, 12), expected, 0)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_colours_match_the_references(strength: float) -> None:
    case = golden("H_images/color.safetensors")
    ours = ColourMatch(case["reference"][0, :, 0], strength)(case["source"][0])
    meets(f"H colour strength {strength}", ours, case[f"out_strength_{strength}"][0], 2e-4)


def test_colours_of_the_next_frames_do_not_depend_on_the_ones_before() -> None:
    case = golden("H_images/color.safetensors")
    frames, reference = case["source"][0], case["reference"][0, :, 0]
    match = ColourMatch(reference)
    pieces = [match(frames[:, :1]), match(frames[:, 1:])]
    assert error(torch.cat(pieces, 1), ColourMatch(reference)(frames)) < 1e-6


def test_no_correction_changes_no_frame() -> None:
    frames = torch.rand(3, 2, 8, 8) * 2 - 1
    assert error(ColourMatch(torch.rand(3, 8, 8), 0.0)(frames), frames) == 0


def test_eight_bits_are_truncated_as_in_the_reference() -> None:
    case = golden("L_extra/to_uint8.safetensors")
    meets("L to_uint8", to_uint8(case["video"]).float(), case["frames_u8"].float(), 0)


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="it needs a GPU"))],
)
def test_frames_arrive_unchanged_while_later_frames_are_computed(device: str) -> None:
    frames = torch.rand(3, 4, 64, 48, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1
    wanted = to_uint8(frames).cpu().numpy()
    leaving = HostCopy(frames)
    frames.zero_()
    later = [torch.zeros(3, 4, 64, 48, device=device) for _ in range(50)]
    arrived = leaving.wait()
    assert np.array_equal(arrived, wanted)
    assert arrived.flags.c_contiguous
    assert len(later) == 50


def test_a_box_that_the_camera_leaves_becomes_empty_and_never_the_whole_picture() -> None:
    picture = np.zeros((200, 1000, 3), np.uint8)
    rim, middle = (0.0, 20.0, 30.0, 180.0), (400.0, 20.0, 900.0, 180.0)
    widths = []
    for time_s in np.arange(0, 80, 2.88):
        _, boxes = move_camera(picture, time_s, (rim, middle))
        assert boxes is not None
        widths.append(int(person_masks((200, 1000), boxes)[0].any(0).sum()))
    assert min(widths) == 0
    assert max(widths) <= 33


def test_the_camera_move_begins_with_the_whole_picture_and_never_jumps() -> None:
    y, x = np.mgrid[0:240, 0:320]
    picture = np.stack([x * 255 // 320, y * 255 // 240, (x + y) * 255 // 560], -1).astype(np.uint8)
    box = (100.0, 60.0, 200.0, 200.0)
    start, boxes = move_camera(picture, 0.0, (box, box))
    assert (start == picture).all()
    assert boxes == (box, box)
    frames = [move_camera(picture, t, None)[0].astype(int) for t in np.arange(0, 90, 2.88)]
    steps = [np.abs(b - a).max() for a, b in itertools.pairwise(frames)]
    assert 0 < max(steps) < 12
