"""Errors for callers have the names of files, and nothing about the server's folders."""

from pathlib import Path

import pytest
from lipsync_server.errors import LipsyncError


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ("No such file or directory: '/data/jobs/01ABC/image'.", "No such file or directory: 'image'."),
        ("/weights/Wan2.1/a-00001-of-00007.safetensors lacks x.", "a-00001-of-00007.safetensors lacks x."),
        ("Only 0 MiB are free in /tmp; free some there.", "Only 0 MiB are free in /tmp; free some there."),
        ("(see /home/me/.cache/lipsync.db-wal)", "(see lipsync.db-wal)"),
        # Addresses are no files.
        ("GET /v1/engines lists the options.", "GET /v1/engines lists the options."),
        ("https://host/data/jobs/a.png could not be reached.", "https://host/data/jobs/a.png could not be reached."),
        ("16000/24000 and and/or/not", "16000/24000 and and/or/not"),
        ("s3://bucket/data/x and ../data/x and a/tmp/b", "s3://bucket/data/x and ../data/x and a/tmp/b"),
    ],
)
def test_callers_see_the_names_of_files_and_never_the_servers_folders(detail: str, said: str) -> None:
    error = LipsyncError(detail)
    assert error.public_detail == said
    assert str(error) == error.detail == detail, "the log has the whole"


def test_a_folder_of_this_machine_is_known_whatever_its_name(tmp_path: Path) -> None:
    assert LipsyncError(f"{tmp_path}/jobs/x/image is gone.").public_detail == "image is gone."
