"""The command line: the `lipsync` command and its verbs. The entry point is `app`."""

from lipsync_server.cli.app import app

__all__ = ["app"]
