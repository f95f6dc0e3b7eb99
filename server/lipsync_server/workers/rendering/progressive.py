"""Write the finished part of a video as one growing file, which a viewer can play while the rest is rendered.

The worker calls `add` when frames are stored durably. In a thread, a decoder process then appends these frames and
their sound (media/mp4/fragments.py), so that neither the engine nor the encoder waits. If the file cannot be written,
the error is only logged, and the caller still gets the finished video. Knows files and threads; knows neither engines
nor HTTP.
"""

import logging
import threading
from pathlib import Path

from lipsync_server.errors import LipsyncError
from lipsync_server.media.sandbox.pool import BorrowedProcess, DecoderPool
from lipsync_server.media.sandbox.tasks import AppendFragments

log = logging.getLogger(__name__)

STREAM_FILE = "stream.mp4"
"""The growing file in the scratch folder of a job."""
_SOUND_FILE = "stream-sound.mp4"


class Progressive:
    """The growing file of one render.

    The owner must call close(). finish(), called before, waits for the last frames.
    """

    def __init__(
        self, scratch: Path, audio: Path, decoders: DecoderPool, *, segments: Path, fps: int, duration_s: float
    ) -> None:
        """segments: the encoder's folder. audio: the sound of the video; the thread encodes it at once."""
        self._task = AppendFragments(segments, audio, scratch / _SOUND_FILE, scratch / STREAM_FILE, fps, duration_s)
        self._decoders = decoders
        self._changed = threading.Condition()
        self._asked, self._done = 1, 0  # the first round encodes the sound
        self._stopped = False
        self._process: BorrowedProcess | None = None
        self._thread = threading.Thread(target=self._run, name="progressive", daemon=True)
        self._thread.start()

    @property
    def has_begun(self) -> bool:
        """Whether frames were added, so that a viewer may be playing them."""
        return self._asked > 1

    def add(self) -> None:
        """Append the frames that have become durable since the last call. Returns at once."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def finish(self) -> None:
        """Append the last frames and wait until they are written."""
        self.add()
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._done == self._asked)

    def close(self) -> None:
        """End the thread, if necessary in the middle of its work."""
        with self._changed:
            self._stopped = True
            if self._process is not None:
                self._process.kill()
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        """Append frames whenever `add` was called. A failure ends the growing file. The body of the thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._done < self._asked)
                if self._stopped:
                    return
                asked = self._asked
            problem = self._append()
            with self._changed:
                self._done, self._process = asked, None
                if problem is not None and not self._stopped:
                    log.warning("the video cannot be watched while it is rendered: %s", problem.detail)
                    self._stopped = True
                self._changed.notify_all()

    def _append(self) -> LipsyncError | None:
        """Append the frames that are stored now; returns the error if that fails."""
        with self._decoders.process() as process:
            with self._changed:
                if self._stopped:
                    return None
                self._process = process
            try:
                process.run(self._task)
            except LipsyncError as error:
                return error
        return None


def remove_stream(scratch: Path) -> None:
    """Remove the growing file of an earlier render, because the next render has other frames."""
    for name in (STREAM_FILE, _SOUND_FILE):
        (scratch / name).unlink(missing_ok=True)
