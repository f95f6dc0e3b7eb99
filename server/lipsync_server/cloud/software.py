"""Choose the software of a new machine: an image with Lipsync, or a stock image and a script that installs it.

The script installs Lipsync from a URL, or waits on the server's port until `upload` sends a wheel. The upload needs no
secret: the order contains the wheel's SHA-256, and the machine refuses every other file. Knows no provider. The script
was not tried on a rented card; a test runs its upload part.
"""

import asyncio
import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from lipsync_server.cloud import published
from lipsync_server.cloud.providers.api import ProviderError
from lipsync_server.errors import InvalidInput

_UPLOAD_TIMEOUT = aiohttp.ClientTimeout(total=600, sock_connect=10)
_SUFFIXES = (".whl", ".tar.gz", ".zip")
_EXTRAS = "[gpu,s3]"

# The receiver runs until it has the wheel. It answers /readyz for `lipsync cloud up`, and accepts one PUT. It needs
# only Python.
_RECEIVER = """
import hashlib, http.server, json, os, sys
folder, name, digest, most = sys.argv[1], sys.argv[2], sys.argv[3], 200_000_000
class Receiver(http.server.BaseHTTPRequestHandler):
    timeout = 600
    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        self.answer(503, {"ready": False, "stage": "waiting", "detail": "The machine waits for the wheel."})
    def do_PUT(self):
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length) if 0 < length <= most else b""
        if hashlib.sha256(data).hexdigest() != digest:
            return self.answer(400, {"detail": "This is not the file that the machine was made for."})
        part = os.path.join(folder, name + ".part")
        with open(part, "wb") as file:
            file.write(data)
        os.replace(part, os.path.join(folder, name))
        self.answer(201, {"detail": "received"})
        self.server.received = True
server = http.server.HTTPServer(("", int(os.environ.get("LIPSYNC_PORT", "5000"))), Receiver)
server.received = False
while not server.received:
    server.handle_request()
"""


@dataclass(frozen=True)
class Software:
    """The software of a rented machine.

    image: the container image that the provider starts. script: run with bash in it; "" runs the image's own program.

    min_cuda: CUDA version that the host's driver must know. wheel: a file here that `upload` sends.
    """

    image: str
    min_cuda: str
    script: str = ""
    wheel: Path | None = None


def choose_software(*, image: str = "", source: str = "", stock_image: str = published.STOCK_IMAGE) -> Software:
    """Choose the software from the flags: the image, else the source, else the published release.

    source: https URL of a wheel or source archive, or the path of such a file here. Raises InvalidInput.
    """
    if image and source:
        raise InvalidInput(
            "--image and --source exclude each other: an image has Lipsync inside already.", field="source"
        )
    if not source and (chosen := image or published.image()):
        return Software(chosen, published.IMAGE_CUDA)
    source = source or published.source_archive()
    if not source:
        raise InvalidInput(
            "This copy of Lipsync comes from no release, so there is no published image to start. Choose one: "
            "--from-source sends this checkout to the machine, --source takes the URL or path of a wheel or source "
            "archive, --image (LIPSYNC_IMAGE) takes an image of yours.",
            field="source",
        )
    if not source.split("?")[0].split("#")[0].endswith(_SUFFIXES):
        raise InvalidInput(f"--source must end in {', '.join(_SUFFIXES)}; {source!r} does not.", field="source")
    if urlsplit(source).scheme == "https":
        plain, whole = (shlex.quote(f"lipsync-server{extras} @ {source}") for extras in ("", _EXTRAS))
        return Software(stock_image, published.STOCK_CUDA, _script("", plain, whole))
    path = Path(source)
    if not path.is_file():
        raise InvalidInput(
            f"--source must be an https URL or a file here; there is no file {source!r}.", field="source"
        )
    if not re.fullmatch(r"[\w.+-]+", path.name):
        raise InvalidInput(f"--source {path.name!r}: letters, digits, - _ . and + only in its name.", field="source")
    # The file is stored beside the weights, on RunPod's volume too, so that it survives a restart of the machine.
    receive = f'"$python" -c {shlex.quote(_RECEIVER)} "$uploads" {path.name} {_sha256(path)}'
    before = f'[ -f "$uploads/{path.name}" ] || {receive}\n'
    plain, whole = (f'"$uploads/{path.name}{extras}"' for extras in ("", _EXTRAS))
    return Software(stock_image, published.STOCK_CUDA, _script(before, plain, whole), path)


def build_wheel(checkout: Path, folder: Path) -> Path:
    """Build the wheel of `checkout` into `folder`.

    Raises InvalidInput if `checkout` has no source code or the build fails.
    """
    if not (checkout / "pyproject.toml").is_file():
        raise InvalidInput(
            f"--from-source needs the source code, and {checkout} has no pyproject.toml. Run it in a checkout.",
            field="from_source",
        )
    built = subprocess.run(_wheel_command(checkout, folder), capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if built.returncode or not wheels:
        raise InvalidInput(f"The wheel could not be built: {built.stderr.strip()[-500:]}", field="from_source")
    return wheels[0]


def _wheel_command(checkout: Path, folder: Path) -> list[str]:
    """The build command: pip (offline if the build's tool is installed), or uv in an environment without pip."""
    if find_spec("pip") is None and (uv := shutil.which("uv")) is not None:
        return [uv, "build", "--quiet", "--wheel", "--out-dir", str(folder), str(checkout)]
    as_it_is = ["--no-build-isolation"] if find_spec("hatchling") is not None else []
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *as_it_is]
    return [*pip, "--wheel-dir", str(folder), str(checkout)]


async def upload(url: str, wheel: Path, *, tries: int = 5, pause_s: float = 5.0) -> None:
    """Send `wheel` to the machine whose script waits for it at `url`.

    Raises ProviderError if the machine refuses it.
    """
    data = await asyncio.to_thread(wheel.read_bytes)
    reason = ""
    for attempt in range(tries):
        if attempt:
            await asyncio.sleep(pause_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=_UPLOAD_TIMEOUT) as session,
                session.put(f"{url}/wheel", data=data) as response,
            ):
                if response.status == 201:
                    return
                reason = (await response.text(errors="replace"))[:200]
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
    raise ProviderError(f"The machine at {url} did not take {wheel.name}: {reason}")


def _script(before: str, plain: str, whole: str) -> str:
    """The script that installs Lipsync beside the image's torch, which it does not change, and runs the server.

    plain: the requirement without extras. It is installed first and downloads the profile's model files while `whole`
    is installed; the server continues that download. After a restart of the machine, Lipsync is already installed.
    Triton compiles small C programs, so the script installs a compiler if the image has none. Compiled kernels are
    stored beside the weights, as in our own image.
    """
    return (
        "set -eu\n"
        "export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1\n"
        ': "${LIPSYNC_DATA_DIR:=/data}" "${LIPSYNC_WEIGHTS_DIR:=/weights}"\n'
        ': "${TORCHINDUCTOR_CACHE_DIR:=$LIPSYNC_WEIGHTS_DIR/.compiled}"\n'
        ': "${TRITON_CACHE_DIR:=$TORCHINDUCTOR_CACHE_DIR/triton}"\n'
        "export LIPSYNC_DATA_DIR LIPSYNC_WEIGHTS_DIR TORCHINDUCTOR_CACHE_DIR TRITON_CACHE_DIR\n"
        "uploads=$LIPSYNC_WEIGHTS_DIR/.uploads\n"
        'mkdir -p "$LIPSYNC_DATA_DIR" "$LIPSYNC_WEIGHTS_DIR" "$uploads"\n'
        "python=$(command -v python || command -v python3)\n"
        "installed=${HOME:-/root}/.lipsync-installed\n"
        'if [ ! -e "$installed" ]; then\n'
        f"{before}"
        f'"$python" -m pip install --no-cache-dir {plain}\n'
        "download=\n"
        'if [ -n "${LIPSYNC_PROFILE:-}" ]; then\n'
        '"$python" -m lipsync_server.cli weights pull "$LIPSYNC_PROFILE" > /tmp/weights.log 2>&1 &\n'
        "download=$!\n"
        "fi\n"
        "if ! command -v gcc > /dev/null; then\n"
        "apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev\n"
        "fi\n"
        '"$python" -c \'import torch; print("torch==" + torch.__version__)\' > /tmp/torch.txt\n'
        f'"$python" -m pip install --no-cache-dir -c /tmp/torch.txt {whole}\n'
        'if [ -n "$download" ]; then\n'
        'kill "$download" 2> /dev/null || true\n'
        'wait "$download" || true\n'
        "fi\n"
        'touch "$installed"\n'
        "fi\n"
        'exec "$python" -m lipsync_server.cli serve\n'
    )


def _sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
