"""The command line: `lipsync serve | render | demo | bench`. The entry point is `app`."""

from lipsync_server.cli.app import app

__all__ = ["app"]
