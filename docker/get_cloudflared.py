"""Downloads cloudflared of one version for this machine's processor: get_cloudflared.py VERSION FILE.

Standard library only: it runs in the image's build, before anything is installed.
"""

import platform
import sys
import urllib.request
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def main() -> None:
    version, file = sys.argv[1], Path(sys.argv[2])
    name = f"cloudflared-linux-{ARCHITECTURES[platform.machine()]}"
    url = f"https://github.com/cloudflare/cloudflared/releases/download/{version}/{name}"
    with urllib.request.urlopen(url, timeout=120) as response:
        file.write_bytes(response.read())
    file.chmod(0o755)


main()
