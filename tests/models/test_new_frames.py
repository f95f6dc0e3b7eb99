"""The frames that a decoded window sends and passes on, for every length, batch and second attempt."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from lipsync_server.models.sampling.new_frames import NewFrames
from lipsync_server.models.sampling.windows import Window, schedule


def decoded(window: Window) -> list[torch.Tensor]:
    """The window's frames as the VAE yields them, one and then four at a time; each pixel is the frame's number."""
    numbers = torch.arange(window.start, window.start + window.n_frames).float()
    frames = numbers.view(1, -1, 1, 1).expand(3, -1, 1, 1)
    return [frames[:, :1], *frames[:, 1:].split(window.stride, dim=1)]


@given(n_frames=st.integers(1, 300), motion=st.sampled_from([1, 5, 9, 25]), n_sent=st.integers(0, 12))
def test_every_frame_of_the_video_is_sent_once(n_frames: int, motion: int, n_sent: int) -> None:
    plan = schedule(n_frames, window_frames=29, motion_frames=motion)
    sent: list[int] = []
    for window in plan.windows:
        is_last = window is plan.windows[-1]
        # An earlier attempt at the window has sent its first frames.
        before = min(n_sent, window.n_kept)
        first = window.start + window.keep_first
        sent += range(first, first + before)
        new = NewFrames(window, motion_frames=0 if is_last else motion, n_sent=before)
        for batch in decoded(window):
            if (kept := new.add(batch)) is not None:
                sent += [int(number) for number in kept[0, :, 0, 0]]
            if new.complete:
                break
        assert new.complete == is_last
        if not is_last:
            stop = window.start + window.n_frames
            assert new.tail()[0, :, 0, 0].tolist() == list(range(stop - motion, stop))
    assert sent == list(range(n_frames))


def test_progress_grows_with_each_step_and_ends_complete() -> None:
    plan = schedule(200, window_frames=81, motion_frames=9)
    seen = [plan.progress(window, step, 4) for window in plan.windows for step in range(5)]
    done = [each[0] for each in seen]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == seen[-1][1]
    assert seen[6][2] == "window 2 of 3, step 2 of 4"
    assert seen[4][2] == "window 1 of 3, step 4 of 4"
