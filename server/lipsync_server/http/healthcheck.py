"""The image's HEALTHCHECK: a program that exits with status 0 when the server on this machine answers.

It requests /healthz on the port of the settings. It imports the standard library and the settings only, because Docker
starts it every half minute.
"""

import sys
import urllib.request

from lipsync_server.settings import Settings


def main() -> int:
    """Request /healthz; returns the exit status, 0 for a healthy server."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{Settings().port}/healthz", timeout=4) as response:
            return 0 if response.status == 200 else 1
    except OSError as error:
        sys.stderr.write(f"the server does not answer: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
