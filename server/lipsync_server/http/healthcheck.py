"""Exit status 0 when the server on this machine answers: the image's HEALTHCHECK.

Asks /healthz on the port of the settings. Standard library and settings only, because it runs every half minute.
"""

import sys
import urllib.request

from lipsync_server.settings import Settings


def main() -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{Settings().port}/healthz", timeout=4) as response:
            return 0 if response.status == 200 else 1
    except OSError as error:
        sys.stderr.write(f"the server does not answer: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
