"""Builds the project's images from its Dockerfile with buildah, without a Docker daemon, and tries each one.

    sudo python3 tests/docker/build_images.py [cpu] [gpu] [--keep]

Needs root, debootstrap and buildah (Debian has both as packages), the packages' registries, and disk: 6 GB for the
CPU image, 40 GB for the GPU image, which takes twenty to thirty minutes. That is buildah's storage driver `overlay`;
`vfs`, for kernels that mount no overlay (STORAGE_DRIVER=vfs), copies every layer and needs 60 GB. The base image comes
from no registry: a root that debootstrap makes is imported under its name. It is larger than the slim image (121 and
75 MB), so sizes are upper bounds.

The CPU image is started as a container is, its health check is run, and it renders a video over HTTP as user 1000. In
the GPU image's root, which has no card here, `lipsync doctor`, every engine's modules, the kernels' cache and a render
with the preview engine are tried. Names and certificates of package indexes go in as mounts, never into a layer.
Nothing but Python's standard library.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from dockerfile import stages

REPOSITORY = Path(__file__).resolve().parents[2]
MAX_BYTES = {"cpu": 1_500_000_000, "gpu": 11_000_000_000}
PORT = 18_765
# chroot isolation needs no namespaces, which a container or a sandbox may not be allowed to make.
BUILDAH = {"BUILDAH_ISOLATION": "chroot"}
CERTIFICATES = "/run/certificates-of-the-host.crt"
PARTS = ("usr", "opt/lipsync", "opt/kernels", "opt/lipsync/lib/python3.11/site-packages/nvidia")
# This program runs in the GPU image. It imports the modules that a worker imports, and reads the image's kernel cache.
GPU_CODE = """
import importlib, time, torch, triton, xformers._cpp_lib as xformers
from lipsync_server.engines import registry
from lipsync_server.models import ahead_of_time
assert xformers._build_metadata, "xformers does not load"
for name in registry.SHIPPED:
    importlib.import_module(f"{registry.SHIPPED[name].package}.engine")
    print("engine", name, "imports")
began = time.monotonic()
n_kernels = sum(map(len, ahead_of_time.compile_all(89).compiled.values()))
took_s = time.monotonic() - began
print(f"torch {torch.__version__}, Triton {triton.__version__}: {n_kernels} kernels from the cache in {took_s:.1f} s")
assert took_s < 8, "the kernels were compiled anew"
"""


@dataclass
class Image:
    """A built image: its name, its container's root, and its configuration in Docker's form."""

    name: str
    root: Path
    config: dict[str, Any]

    def chroot(self, command: list[str]) -> list[str]:
        inside = ["/bin/sh", "-c", f'cd "{self.config["WorkingDir"]}" && exec "$@"', "step", *command]
        return ["chroot", str(self.root), *inside]

    def environment(self, **more: str) -> dict[str, str]:
        return {"HOME": "/root", "LANG": "C.UTF-8", **dict(pair.split("=", 1) for pair in self.config["Env"]), **more}

    def start(self, *command: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(self.chroot(list(command)), env=self.environment(**more), capture_output=True, text=True)

    def run(self, *command: str, **more: str) -> str:
        """The output of a command in the image; ends this program where the command fails."""
        ended = self.start(*command, **more)
        if ended.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
        return ended.stdout.strip()


def buildah(*arguments: str, quiet: bool = False) -> str:
    ended = subprocess.run(
        ["buildah", *arguments], env=os.environ | BUILDAH, check=True, text=True,
        stdout=subprocess.PIPE if quiet else None,
    )  # fmt: skip
    return (ended.stdout or "").strip()


def import_base(name: str, work: Path) -> None:
    """Make the image `docker.io/library/NAME` from a bare root, unless it is there."""
    full = f"docker.io/library/{name}"
    if full in buildah("images", "--format", "{{.Name}}:{{.Tag}}", quiet=True).split():
        return
    distribution, _, tag = name.partition(":")
    if distribution != "debian":
        raise SystemExit(f"there is no way to make {name} without a registry")
    suite, root = tag.removesuffix("-slim"), work / "base"
    say(f"debootstrap {suite}")
    subprocess.run(["debootstrap", "--variant=minbase", suite, str(root)], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["umount", "--lazy", str(root / "proc")], check=False, stderr=subprocess.DEVNULL)
    for spare in (root / "var/cache/apt/archives", root / "var/lib/apt/lists"):
        shutil.rmtree(spare)
        (spare / "partial").mkdir(parents=True)
    sources = "".join(f"deb http://deb.debian.org/debian {place} main\n" for place in (suite, f"{suite}-updates"))
    security = f"deb http://deb.debian.org/debian-security {suite}-security main\n"
    (root / "etc/apt/sources.list").write_text(sources + security)
    container = buildah("from", "scratch", quiet=True)
    buildah("add", "--quiet", container, str(root), "/")
    buildah("config", "--cmd", "bash", container)
    buildah("commit", "--quiet", "--rm", container, full)
    shutil.rmtree(root)


def build(target: str, work: Path) -> str:
    """Build a target from the files that git knows; returns the image's name."""
    context, name = work / "context", f"lipsync-tried:{target}"
    context.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    subprocess.run(["tar", "x"], cwd=context, input=archive, check=True)
    pip = work / "pip.conf"
    finds = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    pip.write_text(f"[global]\ncert = {CERTIFICATES}\n" + "".join(index_lines(finds)))
    mounts = ["-v", f"/etc/ssl/certs/ca-certificates.crt:{CERTIFICATES}:ro", "-v", f"{pip}:/etc/pip.conf:ro"]
    buildah(
        "bud", "--layers", "--pull-never", "--format", "docker", "--target", target, "-t", name, *mounts, str(context)
    )
    shutil.rmtree(context)
    return name


def index_lines(listing: list[str]) -> list[str]:
    """Lines of pip's configuration here that name an index by its address; folders of this machine stay out."""
    found = []
    for line in listing:
        key, _, value = line.partition("=")
        value = value.strip("'")
        if key.startswith("global.") and key.endswith("index-url") and value.startswith("http"):
            found.append(f"{key.removeprefix('global.')} = {value}\n")
    return found


def sizes(image: Image, work: Path) -> None:
    """Print the disk space of the image's parts, and each layer's size as a host downloads it; check the whole."""
    total = size_of(image.root)
    target = image.name.partition(":")[2]
    pushed = work / "pushed"
    buildah("push", "--quiet", "--format", "oci", image.name, f"dir:{pushed}")
    layers = [layer["size"] for layer in json.loads((pushed / "manifest.json").read_text())["layers"]]
    shutil.rmtree(pushed)
    each = " + ".join(f"{size / 1e6:,.0f}" for size in layers)
    say(f"{image.name}: {sum(layers) / 1e9:.2f} GB to download, in layers of {each} MB")
    parts = ", ".join(
        f"/{part} {size_of(image.root / part) / 1e6:,.0f} MB" for part in PARTS if (image.root / part).exists()
    )
    say(f"{image.name}: {total / 1e9:.2f} GB ({parts})")
    assert total < MAX_BYTES[target], f"that is more than {MAX_BYTES[target] / 1e9} GB"


@contextmanager
def container_of(name: str) -> Iterator[Image]:
    """A container of the image, mounted, with the kernel's file systems inside."""
    container = buildah("from", "--pull-never", name, quiet=True)
    try:
        root = Path(buildah("mount", container, quiet=True))
        config = json.loads(buildah("inspect", "--type", "image", name, quiet=True))["Docker"]["config"]
        with mounted(root):
            yield Image(name, root, config)
    finally:
        buildah("umount", container, quiet=True)
        buildah("rm", container, quiet=True)


@contextmanager
def mounted(root: Path) -> Iterator[None]:
    places = [root / "proc", root / "dev"]
    try:
        for place in places:
            place.mkdir(exist_ok=True)
            subprocess.run(["mount", "--rbind", f"/{place.name}", str(place)], check=True)
            subprocess.run(["mount", "--make-rslave", str(place)], check=True)
        yield
    finally:
        for place in reversed(places):
            subprocess.run(["umount", "--lazy", str(place)], check=False)


def try_server(image: Image) -> None:
    """Start it as a container is started, run its health check, render, stop it."""
    variables = {"LIPSYNC_TOKENS": "secret", "PORT": str(PORT), "PORT_HEALTH": str(PORT + 1)}
    config = image.config
    health = config["Healthcheck"]["Test"][1:]
    began = time.monotonic()
    server = subprocess.Popen(image.chroot([*config["Entrypoint"], *config["Cmd"]]), env=image.environment(**variables))
    try:
        wait_for(f"http://127.0.0.1:{PORT}/readyz", server)
        say(f"ready after {time.monotonic() - began:.1f} s")
        wait_for(f"http://127.0.0.1:{PORT + 1}/ping", server)
        image.run(*health, **variables)
        samples = REPOSITORY / "server/lipsync_server/samples"
        began = time.monotonic()
        video = render(samples / "portrait.jpg", samples / "speech.wav")
        assert video[4:8] == b"ftyp", video[:100]
        say(f"rendered {len(video):,} bytes in {time.monotonic() - began:.1f} s")
        # The init process is root's; the server below it is not.
        ids = subprocess.run(["ps", "-o", "uid=", "--ppid", str(server.pid)], capture_output=True, text=True)
        assert set(ids.stdout.split()) == {"1000"}, f"the server runs as user {ids.stdout}"
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(60)
    assert status == 0, f"the server stopped with status {status}"
    assert image.start(*health, **variables).returncode, "the health check is content without a server"


def try_gpu_root(image: Image) -> None:
    """Tries an image without a card: the doctor, imports, and the kernels' cache."""
    report = json.loads(image.run("lipsync", "doctor", "--json", "--mbps", "500"))
    for finding in report["findings"]:
        say(f"    {finding['state']:8} {finding['name']}: {finding['detail']} {finding['advice']}")
    assert report["engine"] == "preview"
    cache = {"TRITON_CACHE_DIR": "/tmp/triton", "PREBUILT_KERNELS_DIR": "/opt/kernels"}
    say(image.run("entrypoint.sh", "python", "-c", GPU_CODE, **cache))


def wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with status {server.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"{url} did not answer")


def render(image: Path, audio: Path) -> bytes:
    boundary = uuid.uuid4().hex
    body = b""
    for name, path in (("image", image), ("audio", audio)):
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{path.name}"\r\n\r\n'
        body += head.encode() + path.read_bytes() + b"\r\n"
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/lipsync",
        data=body + f"--{boundary}--\r\n".encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}", "Authorization": "Bearer secret"},
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        return bytes(response.read())


def size_of(root: Path) -> int:
    answer = subprocess.run(["du", "-sbx", str(root)], capture_output=True, text=True, check=True)
    return int(answer.stdout.split()[0])


def say(sentence: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {sentence}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build and try the images with buildah.")
    parser.add_argument("targets", nargs="*", default=["cpu"], choices=["cpu", "gpu"])
    parser.add_argument("--keep", action="store_true", help="leave the images in buildah's store")
    given = parser.parse_args()
    if os.geteuid() != 0 or None in map(shutil.which, ("debootstrap", "buildah")):
        raise SystemExit("this needs root, debootstrap and buildah: apt-get install debootstrap buildah")
    with tempfile.TemporaryDirectory(prefix="lipsync-images-") as folder:
        work = Path(folder)
        import_base(stages(REPOSITORY / "Dockerfile")["base"].base, work)
        for target in given.targets:
            began = time.monotonic()
            name = build(target, work)
            say(f"{name} was built in {time.monotonic() - began:.0f} s")
            with container_of(name) as image:
                sizes(image, work)
                if target == "gpu":
                    try_gpu_root(image)
                try_server(image)
            if not given.keep:
                buildah("rmi", "--force", name)


if __name__ == "__main__":
    main()
