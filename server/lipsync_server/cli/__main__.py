"""`python -m lipsync_server.cli` is the `lipsync` command."""

from lipsync_server.cli.app import app

app(prog_name="lipsync")
