"""The windows over the audio: the reference's frame for frame, and ours for every length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from infinitetalk_golden import equal, golden_json
from infinitetalk_reference import reference_schedule
from lipsync_server.errors import InvalidInput
from lipsync_server.models.sampling.windows import Schedule, schedule

CASES = golden_json("C_chunking/chunking.json")


@pytest.mark.parametrize("name", CASES)
def test_the_reference_schedule_is_met_exactly(name: str) -> None:
    case = CASES[name]

    def plan() -> Schedule:
        return reference_schedule(
            tuple(case["audio_frames"]),
            window_frames=case["frame_num"],
            motion_frames=case["motion_frame"],
            max_frames=case["max_frames_num"],
        )

    if "error" in case:
        with pytest.raises(InvalidInput):
            plan()
        equal(f"C {name}", "refused", "refused")
        return
    ours = plan()
    found: list[object] = [ours.n_frames, len(ours.windows), [w.start for w in ours.windows]]
    wanted: list[object] = [case["final_frames"], case["n_chunks"], case["cond_frame_index_per_chunk"]]
    found.append([{"chunk": w.index, "first": w.keep_first, "stop": w.keep_stop} for w in ours.windows])
    wanted.append(case["kept_frames"])
    for window, chunk in zip(ours.windows, case["chunks"], strict=True):
        found.append((window.start, window.start + window.n_frames))
        wanted.append((chunk["audio_start_idx"], chunk["audio_end_idx"]))
        for person, pieces in enumerate(chunk["centre_source_frames"]):
            found.append(ours.audio_indices(window, person)[:, 2].tolist())
            wanted.append([frame for a, b, step in pieces for frame in range(a, b + step, step)])
        heard = ours.audio_indices(window).tolist()
        found.append((heard[0], heard[-1], heard))
        wanted.append(
            (
                chunk.get("first_window", heard[0]),
                chunk.get("last_window", heard[-1]),
                chunk.get("windows_person1", heard),
            )
        )
    equal(f"C {name}", found, wanted)


def test_a_much_shorter_second_person_changes_the_last_window_only() -> None:
    """The reference makes all windows of person 1, mirrors person 2's audio in the last one, and cuts to person 2."""
    plan = reference_schedule((400, 160))
    assert (plan.n_frames, len(plan.windows)) == (160, 6)
    assert [w.n_kept for w in plan.windows] == [81, 72, 7, 0, 0, 0]
    assert plan.audio_indices(plan.windows[2], 1)[-1].tolist() == [159] * 5
    assert plan.audio_indices(plan.windows[5], 1)[-1].tolist() == [0] * 5


@given(n_frames=st.integers(1, 45_000), motion=st.sampled_from([1, 5, 9, 25]), window=st.sampled_from([29, 49, 81]))
def test_our_schedule_covers_every_length_exactly(n_frames: int, motion: int, window: int) -> None:
    plan = schedule(n_frames, window_frames=window, motion_frames=motion)
    position = 0
    for w in plan.windows:
        assert w.start + w.keep_first == position
        assert w.n_kept > 0
        assert w.n_frames % 4 == 1
        assert w.keep_stop <= w.n_frames <= window
        position = w.start + w.keep_stop
    assert position == n_frames
    last = plan.windows[-1]
    assert last.n_frames - last.keep_stop < 4, "the last window is longer than it must be"
    heard = plan.audio_indices(last)
    assert heard.min() >= 0
    assert heard.max() < plan.heard[0]


@pytest.mark.parametrize(
    ("n_frames", "sizes"), [(5, [5]), (81, [81]), (82, [81, 13]), (153, [81, 81]), (154, [81, 81, 13])]
)
def test_the_last_window_is_as_short_as_it_can_be(n_frames: int, sizes: list[int]) -> None:
    assert [w.n_frames for w in schedule(n_frames).windows] == sizes


@pytest.mark.parametrize(("window", "motion"), [(80, 9), (81, 10), (81, 81), (81, 85), (1, 1)])
def test_impossible_windows_are_refused(window: int, motion: int) -> None:
    with pytest.raises(InvalidInput):
        schedule(100, window_frames=window, motion_frames=motion)
