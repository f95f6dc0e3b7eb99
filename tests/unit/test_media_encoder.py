"""The encoder's segments: refused inputs, segments that survive a kill, and equal bytes for equal frames."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lipsync_server.media.mp4.encoder import FrameEncoder, segments_in
from lipsync_server.media.mp4.mux import mux
from numbered_frames import batch, number_of, recording, shown_frames


@pytest.mark.parametrize(
    ("shape", "word"),
    [((1, 63, 64, 3), "even"), ((1, 64, 63, 3), "even"), ((64, 64, 3), "shape"), ((1, 8, 8, 4), "shape")],
)
def test_frames_of_another_form_are_refused(tmp_path: Path, shape: tuple[int, ...], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        FrameEncoder(tmp_path).write(np.zeros(shape, np.uint8))


def test_frames_may_not_change_size_even_after_a_restart(tmp_path: Path) -> None:
    encoder = FrameEncoder(tmp_path)
    encoder.write(batch(0, 2))
    encoder.close()
    with pytest.raises(ValueError, match="before"):
        FrameEncoder(tmp_path).write(np.zeros((1, 64, 64, 3), np.uint8))


def test_nvenc_falls_back_to_libx264_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU that may encode")
    encoder = FrameEncoder(tmp_path, encoder="h264_nvenc")
    encoder.write(batch(0, 3))
    assert encoder.end_segment() == 3
    assert "using libx264" in caplog.text


def test_a_rewound_encoder_forgets_what_came_after_a_resume_point(tmp_path: Path) -> None:
    encoder = FrameEncoder(tmp_path / "s")
    for start, end in ((0, 5), (5, 9), (9, 10)):
        encoder.write(batch(start, end))
        encoder.end_segment()
    with pytest.raises(ValueError, match="no segment ended at frame 7"):
        encoder.rewind(7)
    encoder.rewind(5)
    assert FrameEncoder(tmp_path / "s").n_frames == encoder.n_frames == 5


def test_an_aborted_segment_leaves_only_what_was_durable(tmp_path: Path) -> None:
    encoder = FrameEncoder(tmp_path)
    encoder.write(batch(0, 4))
    encoder.end_segment()
    encoder.write(batch(4, 9))
    assert (encoder.n_frames, encoder.n_durable) == (9, 4)
    encoder.abort()
    assert encoder.n_frames == 4
    assert [path.name for path in tmp_path.iterdir()] == ["00000000-00000004.mp4"]


def test_a_job_may_resume_with_another_quality(tmp_path: Path) -> None:
    # Another CRF means other picture parameters in the stream; a plain copy would decode to rubbish.
    for start, crf in ((0, 18), (7, 35), (14, 18), (21, 28)):
        encoder = FrameEncoder(tmp_path / "segments", crf=crf)
        assert encoder.n_frames == start
        encoder.write(batch(start, start + 7))
        encoder.close()
    audio = recording(tmp_path / "a.wav", 28 / 25)
    mux(tmp_path / "segments", audio, tmp_path / "o.mp4", duration_s=28 / 25)
    assert [number_of(frame) for frame in shown_frames(tmp_path / "o.mp4")] == list(range(28))


WRITER = """
import sys
from pathlib import Path
import numpy as np
from lipsync_server.media.mp4.encoder import FrameEncoder
frames = np.load(sys.argv[2])
encoder = FrameEncoder(Path(sys.argv[1]))
while encoder.n_frames < len(frames):
    start = encoder.n_frames
    encoder.write(frames[start : start + 3])
    if start % 2:
        encoder.end_segment()
    print(encoder.n_frames, flush=True)
encoder.close()
print("done", flush=True)
"""


def test_a_killed_encoder_resumes_after_its_last_durable_segment(tmp_path: Path) -> None:
    folder = tmp_path / "segments"
    np.save(tmp_path / "frames.npy", batch(0, 60))
    command = [sys.executable, "-c", WRITER, str(folder), str(tmp_path / "frames.npy")]
    rng = np.random.default_rng(0)
    n_before = n_kills = 0
    for _ in range(40):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        n_lines = int(rng.integers(1, 6))
        lines = [child.stdout.readline().strip() for _ in range(n_lines)]
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        n_durable = segments_in(folder)[-1].end if segments_in(folder) else 0
        assert n_durable >= n_before  # Segments that were durable before the kill are still there.
        n_before = n_durable
        if "done" in lines:
            break
        n_kills += 1
    else:
        pytest.fail("the video never got finished")
    assert n_kills >= 2
    assert FrameEncoder(folder).n_frames == 60
    mux(folder, recording(tmp_path / "a.wav", 2.4), tmp_path / "o.mp4", duration_s=2.4)
    assert [number_of(frame) for frame in shown_frames(tmp_path / "o.mp4")] == list(range(60))


ENCODE_A_MOVE = """
import sys
from pathlib import Path
import numpy as np
from lipsync_server.media.mp4.encoder import FrameEncoder

wall = np.random.default_rng(0).integers(0, 255, (26, 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
encoder = FrameEncoder(Path(sys.argv[1]))
encoder.write(np.stack([wall[:, 3 * i : 3 * i + 208] for i in range(13)]))
encoder.close()
"""


def test_equal_frames_become_equal_bytes_whatever_memory_held_before(tmp_path: Path) -> None:
    """The C library fills fresh memory with a given byte; 208 is no multiple of 128, see encoder._x264_options."""
    streams = set()
    for filling in ("0", "1", "85", "170"):
        environment = {**os.environ, "MALLOC_PERTURB_": filling}
        subprocess.run([sys.executable, "-c", ENCODE_A_MOVE, str(tmp_path / filling)], check=True, env=environment)
        [segment] = segments_in(tmp_path / filling)
        streams.add(segment.path.read_bytes())
    assert len(streams) == 1


def test_a_torn_segment_and_anything_after_a_gap_are_dropped(tmp_path: Path) -> None:
    encoder = FrameEncoder(tmp_path)
    for start in (0, 4, 8):
        encoder.write(batch(start, start + 4))
        encoder.end_segment()
    (tmp_path / "segment.part").write_bytes(b"torn")
    (tmp_path / "00000004-00000008.mp4").unlink()
    assert FrameEncoder(tmp_path).n_frames == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000000-00000004.mp4"]
