"""A viewer who asks for the growing video at the moment of the job's end is answered, although its file is removed."""

from pathlib import Path
from typing import IO, Any

import pytest
from lipsync_server.http.routes import stream
from lipsync_server.media.mp4.growing_file import MARK_BYTES


def test_a_growing_video_that_is_removed_while_it_is_opened_is_still_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stream"
    path.write_bytes(bytes(MARK_BYTES))
    really_open = Path.open

    def open_and_remove(self: Path, *words: Any) -> IO[Any]:
        file: IO[Any] = really_open(self, *words)
        self.unlink()
        return file

    monkeypatch.setattr(Path, "open", open_and_remove)
    file = stream._open_begun(path)
    assert file is not None
    with file:
        assert len(file.read()) == MARK_BYTES
