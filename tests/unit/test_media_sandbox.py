"""Promise 4: untrusted files are decoded in processes with limits, and the failure of a process harms no other job."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hostile_files import jpeg_with_empty_scans, mp4_with_many_samples
from lipsync_server.errors import Cancelled, InvalidAudio, InvalidImage, LipsyncError, UnsupportedMedia
from lipsync_server.media.picture.still_or_video import read_pixels
from lipsync_server.media.sandbox.limits import MIB, Limits, why_not
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.process import DecoderProcess
from lipsync_server.media.sandbox.tasks import DecodePicture, DecodeSpeech, ProbePicture, ProbeRecording, Task
from PIL import Image
from sounds import RATE, voice, wav

LIMIT = 64_000_000
pytestmark = pytest.mark.skipif(why_not() is not None, reason="this system cannot limit a process")


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool(n_warm=1)
    yield pool
    pool.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "p.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(path)
    return path


def set_limits(monkeypatch: pytest.MonkeyPatch, limits: Limits) -> None:
    monkeypatch.setattr(ProbePicture, "limits", lambda self: limits)


def test_a_decoded_picture_and_speech_come_back_bit_by_bit(pool: DecoderPool, picture: Path, tmp_path: Path) -> None:
    pixels = read_pixels(pool.run(DecodePicture(picture, LIMIT, tmp_path / "p.rgb")))
    assert np.array_equal(pixels, np.asarray(Image.open(picture)))
    speech = pool.run(DecodeSpeech(wav(tmp_path / "a.wav", voice(1.0)), tmp_path, 10.0))
    assert (speech.n_samples, speech.duration_s) == (RATE, 1.0)
    assert speech.path.stat().st_size == RATE * 4


@pytest.mark.parametrize("as_picture", [True, False])
def test_a_few_hundred_bytes_cannot_take_gigabytes(pool: DecoderPool, tmp_path: Path, as_picture: bool) -> None:
    path = tmp_path / "bomb.mp4"
    path.write_bytes(mp4_with_many_samples(2_000_000_000, picture=as_picture))
    task: Task[Any] = ProbePicture(path, LIMIT) if as_picture else ProbeRecording(path, 0.2, 60.0)
    before = psutil.Process().memory_info().rss
    with pool.process() as process, pytest.raises(LipsyncError) as refusal:
        process.run(task)
    assert "claims 2,000,000,000 samples" in refusal.value.detail
    assert psutil.Process().memory_info().rss - before < 32 * MIB


def test_an_allocation_beyond_the_limit_fails_inside_and_is_fine_outside() -> None:
    program = """if True:
        from lipsync_server.media.sandbox.limits import *
        with applied(Limits(64 * MIB, 5.0, 5.0)):
            try:
                bytearray(200 * MIB)
            except MemoryError:
                print("refused")
        print("fine", len(bytearray(200 * MIB)) // MIB)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused", "fine", "200"]


@pytest.mark.parametrize("as_picture", [True, False])
def test_a_file_of_a_thousand_tracks_is_refused(pool: DecoderPool, tmp_path: Path, as_picture: bool) -> None:
    path = tmp_path / "many.mp4"
    path.write_bytes(mp4_with_many_samples(2, n_tracks=1000, picture=as_picture))
    task: Task[Any] = ProbePicture(path, LIMIT) if as_picture else ProbeRecording(path, 0.2, 60.0)
    with pytest.raises(LipsyncError, match="1000 tracks; at most 64"):
        pool.run(task)


def test_a_decoder_that_hangs_is_killed_at_the_wall_limit(
    pool: DecoderPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    set_limits(monkeypatch, Limits(64 * MIB, 5.0, 0.5))
    with pool.process() as process:
        with pytest.raises(InvalidImage, match=r"not decoded within 0 s|not decoded within 1 s"):
            process.run(ProbePicture(tmp_path / "pipe", LIMIT))
        assert not process.is_alive()


def test_the_kernel_ends_a_process_whose_processor_time_is_used_up() -> None:
    program = """if True:
        from lipsync_server.media.sandbox.limits import *
        with applied(Limits(64 * MIB, 0.1, 5.0)):
            began = time.process_time()
            while time.process_time() < began + 5.0:
                pass
        print("not limited")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGXCPU, "")


def test_a_file_whose_decoder_used_up_its_processor_time_is_refused_with_the_reason(
    pool: DecoderPool, picture: Path
) -> None:
    with pool.process() as process:
        process.run(ProbePicture(picture, LIMIT))
        os.kill(process.pid, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGXCPU)  # as the kernel sends it
        os.kill(process.pid, signal.SIGCONT)
        with pytest.raises(InvalidImage, match="more than 15 s of processor time"):
            process.run(ProbePicture(picture, LIMIT))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_crash_of_a_decoder_is_a_sentence_and_the_next_file_is_read(
    pool: DecoderPool, picture: Path, tmp_path: Path, number: signal.Signals
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pool.process() as process:
        threading.Timer(0.3, os.kill, (process.pid, number)).start()
        with pytest.raises(InvalidImage, match="made its decoder crash"):
            process.run(ProbePicture(tmp_path / "pipe", LIMIT))
    assert pool.run(ProbePicture(picture, LIMIT)).width == 80


def test_a_kill_by_the_caller_ends_the_decoder_at_once(pool: DecoderPool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pool.process() as process:
        threading.Timer(0.2, process.kill).start()
        with pytest.raises(Cancelled):
            process.run(ProbePicture(tmp_path / "pipe", LIMIT))


def test_a_kill_that_comes_too_late_ends_nobody_else_s_task(pool: DecoderPool, picture: Path) -> None:
    """The caller stops a decoder from another thread. By then the process may already decode another file."""
    for _ in range(5):
        with pool.process() as process:
            process.run(ProbePicture(picture, 10**6))
            process.kill()  # This process was stopped, so it must not return to the pool.
        pool.run(ProbePicture(picture, 10**6))
        with pool.process() as earlier:
            earlier.run(ProbePicture(picture, 10**6))
        with pool.process() as later:
            earlier.kill()
            later.run(ProbePicture(picture, 10**6))


def test_a_process_is_kept_after_good_files_and_thrown_away_after_a_bad_one(
    pool: DecoderPool, picture: Path, tmp_path: Path
) -> None:
    pids = set()
    for _ in range(3):
        with pool.process() as process:
            process.run(ProbePicture(picture, LIMIT))
            pids.add(process.pid)
    assert len(pids) == 1
    (tmp_path / "text.png").write_text("hello")
    with pool.process() as process, pytest.raises(UnsupportedMedia):
        process.run(ProbePicture(tmp_path / "text.png", LIMIT))
    assert process.is_alive()
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:4000])
    with pool.process() as process, pytest.raises(InvalidImage):
        process.run(ProbePicture(tmp_path / "cut.png", LIMIT))
    assert not process.is_alive()
    assert process.pid in pids
    with pool.process() as process:
        assert process.pid not in pids


@pytest.mark.parametrize(
    ("probes", "make"),
    [
        ("recording", lambda: mp4_with_many_samples(50_000_000)),
        ("recording", lambda: mp4_with_many_samples(2, n_tracks=1000)),
        ("picture", lambda: mp4_with_many_samples(50_000_000, picture=True)),
        ("picture", lambda: jpeg_with_empty_scans(3800)),
    ],
)
def test_a_process_is_kept_after_a_file_that_no_decoder_has_read(
    pool: DecoderPool, tmp_path: Path, probes: str, make: Callable[[], bytes]
) -> None:
    """So a flood of such files makes no other upload wait for the start of a process."""
    file = tmp_path / "file"
    file.write_bytes(make())
    task: Task[Any] = ProbePicture(file, LIMIT) if probes == "picture" else ProbeRecording(file, 0.2, 600.0)
    pids = set()
    for _ in range(3):
        with pool.process() as process, pytest.raises((InvalidAudio, InvalidImage)):
            process.run(task)
        pids.add(process.pid)
    assert len(pids) == 1
    assert process.is_alive()


def test_a_decoder_process_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    program = (
        "import sys, threading; from pathlib import Path\n"
        "from lipsync_server.media.sandbox.process import DecoderProcess\n"
        "from lipsync_server.media.sandbox.tasks import ProbePicture\n"
        "process = DecoderProcess(); print(process.pid, flush=True)\n"
        "process.run(ProbePicture(Path(sys.argv[1]), 1_000_000))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path / "pipe"], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(timeout=20)


def test_a_decoder_process_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPSYNC_TOKENS", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    process = DecoderProcess()
    try:
        # Until the child has called exec, /proc shows this process's environment for it.
        end = time.monotonic() + 20
        while "sandbox" not in " ".join(psutil.Process(process.pid).cmdline()) and time.monotonic() < end:
            time.sleep(0.01)
        assert "secret" not in psutil.Process(process.pid).environ().values()
    finally:
        process.close()


NO_ANSWERS = (
    *(b"not json\n", b'{"result": {"width": "many"}}\n', b"[]\n"),
    *(b'{"error": "Exit", "detail": "x"}\n', b'{"error": "memory"}\n'),
)


def test_a_broken_answer_of_a_decoder_ends_in_a_sentence(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = DecoderProcess()
    try:
        for line in NO_ANSWERS:
            monkeypatch.setattr(process, "_ask", lambda task, line=line: line)
            with pytest.raises(InvalidImage):
                process.run(ProbePicture(picture, LIMIT))
            assert not process.is_fit
    finally:
        process.close()


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="a kernel without autogroup")
def test_a_decoder_runs_after_the_server_where_the_kernel_shares_the_cpu_by_session(
    pool: DecoderPool, picture: Path
) -> None:
    """The whole session of the decoder is nice, because Linux compares niceness within a session only (autogroup)."""
    own = Path("/proc/self/autogroup").read_text()
    with pool.process() as process:
        process.run(ProbePicture(picture, 10**7))
        assert "nice 4" in Path(f"/proc/{process.pid}/autogroup").read_text()
    assert Path("/proc/self/autogroup").read_text() == own
