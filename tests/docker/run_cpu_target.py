"""Builds the Dockerfile's CPU target without Docker, checks its size, and renders with it.

    sudo python3 tests/docker/run_cpu_target.py [--keep FOLDER]

Every step of the target's stages runs in a throw-away root that debootstrap made, in a chroot. Then the server is
started by ENTRYPOINT and CMD as the image's user, HEALTHCHECK is run, and a video is rendered over HTTP. The base root
is larger than the slim base image (about 100 MB), so the size that is measured is an upper bound.

Needs root, debootstrap and the packages' registries; nothing but Python's standard library.
"""

import argparse
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from dockerfile import Stage, stages, words

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET, MAX_BYTES, PORT = "cpu", 1_500_000_000, 18_765
CERTIFICATES = "var/tmp/certificates-of-the-host.crt"
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "pip_", "ssl_cert_file", "requests_ca_bundle")


@dataclass
class Image:
    """A root and what the Dockerfile said about running it."""

    root: Path
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    arguments: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    folder: str = "/"
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def run(self, command: list[str], user: str | None = None) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(self.chroot(command, user), env=self.all_variables(), check=True)

    def chroot(self, command: list[str], user: str | None = None) -> list[str]:
        inside = ["/bin/sh", "-c", f'cd "{self.folder}" && exec "$@"', "step", *command]
        return ["chroot", f"--userspec={user or self.user}", "--groups=", str(self.root), *inside]

    def all_variables(self) -> dict[str, str]:
        """The image's variables, and how this machine reaches its registries."""
        ours = {name: value for name, value in os.environ.items() if name.lower().startswith(PASSED_ON)}
        home = "/root" if self.user.startswith("0") else "/home/lipsync"
        trust = dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), f"/{CERTIFICATES}")
        return {**ours, **trust, "HOME": home, "LANG": "C.UTF-8", **self.arguments, **self.environment}


def build(all_stages: dict[str, Stage], name: str, roots: Path, built: dict[str, Image]) -> Image:
    """The image of stage `name`, its base and what it copies from built first."""
    if name in built:
        return built[name]
    stage = all_stages[name]
    root = roots / name
    if stage.base in all_stages:
        base = build(all_stages, stage.base, roots, built)
        copy_root(base.root, root)
        image = replace(base, root=root, environment=dict(base.environment), arguments={})
    else:
        debootstrap(stage.base, root)
        image = Image(root)
    with mounted(root):
        for instruction, rest in stage.steps:
            say(f"{name}: {instruction} {rest[:100]}")
            step(image, instruction, rest, lambda other: build(all_stages, other, roots, built).root)
    built[name] = image
    return image


def step(image: Image, instruction: str, rest: str, root_of: Callable[[str], Path]) -> None:
    match instruction:
        case "RUN":
            image.run([*image.shell, rest], image.user)
        case "COPY":
            copy(image, rest, root_of)
        case "ENV":
            for pair in words(rest):
                name, _, value = pair.partition("=")
                image.environment[name] = value.replace("$PATH", image.environment["PATH"])
        case "ARG":
            name, _, value = rest.partition("=")
            image.arguments[name] = value
        case "SHELL":
            image.shell = words(rest)
        case "USER":
            image.user = rest
        case "WORKDIR":
            image.folder = rest
            (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        case "ENTRYPOINT":
            image.entrypoint = words(rest)
        case "CMD":
            image.command = words(rest)
        case "HEALTHCHECK":
            image.health = words(rest.partition("CMD")[2].strip())


def copy(image: Image, rest: str, root_of: Callable[[str], Path]) -> None:
    """COPY of files that git knows (nothing else may get into an image), or --from another stage."""
    parts = words(rest)
    source_root = REPOSITORY
    if parts[0].startswith("--from="):
        source_root = root_of(parts.pop(0).removeprefix("--from="))
    *sources, target = parts
    inside = image.root / (target.lstrip("/") if target.startswith("/") else f"{image.folder}/{target}".lstrip("/"))
    for name in sources:
        source = source_root / name.lstrip("/")
        if source.is_dir():
            inside.mkdir(parents=True, exist_ok=True)
            if source_root == REPOSITORY:
                tracked = subprocess.run(
                    ["git", "ls-files", "-z", "--", name], cwd=REPOSITORY, capture_output=True, check=True
                ).stdout.decode()
                for file in filter(None, tracked.split("\0")):
                    place = inside / Path(file).relative_to(name)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(REPOSITORY / file, place)
            else:
                subprocess.run(["cp", "-a", f"{source}/.", str(inside)], check=True)
        else:
            place = inside / source.name if target.endswith("/") else inside
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place)


def copy_root(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)


def debootstrap(image: str, root: Path) -> None:
    """A bare root in place of an image like debian:bookworm-slim."""
    name, _, tag = image.partition(":")
    if name != "debian":
        raise SystemExit(f"there is no way to make {image} without Docker")
    suite = tag.removesuffix("-slim")
    cache = Path(tempfile.gettempdir()) / f"lipsync-base-{suite}"
    if not (cache / ".ready").exists():
        say(f"debootstrap {suite}")
        shutil.rmtree(cache, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", suite, str(cache)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["chroot", str(cache), "apt-get", "clean"], check=True)
        subprocess.run(["umount", "--lazy", str(cache / "proc")], check=False, stderr=subprocess.DEVNULL)
        (cache / ".ready").touch()
    copy_root(cache, root)
    subprocess.run(["cp", "-a", "/etc/apt/.", str(root / "etc/apt")], check=True)
    # Apart from the root's own, which the package ca-certificates makes anew.
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / CERTIFICATES)
    if any((root / "etc/apt/sources.list.d").glob("*")):
        (root / "etc/apt/sources.list").unlink(missing_ok=True)
    for file in (Path("/etc/resolv.conf"), Path("/etc/hosts"), Path("/etc/pip.conf")):
        if file.exists():
            shutil.copy(file, root / str(file).lstrip("/"))


@contextmanager
def mounted(root: Path) -> Iterator[None]:
    """The kernel's file systems, and folders of packages that pip looks into here, inside the root."""
    finds = [Path(part) for part in os.environ.get("PIP_FIND_LINKS", "").split() if part.startswith("/")]
    places = [Path("/proc"), Path("/dev"), *(find for find in finds if find.is_dir())]
    done = []
    try:
        for place in places:
            inside = root / str(place).lstrip("/")
            inside.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--rbind", str(place), str(inside)], check=True)
            subprocess.run(["mount", "--make-rslave", str(inside)], check=True)
            done.append(inside)
        yield
    finally:
        for inside in reversed(done):
            subprocess.run(["umount", "--lazy", str(inside)], check=True)


def check(image: Image) -> None:
    """Start it as a container is started, run its health check, render, stop it."""
    image.environment |= {"LIPSYNC_TOKENS": "secret", "PORT": str(PORT), "PORT_HEALTH": str(PORT + 1)}
    with mounted(image.root):
        began = time.monotonic()
        command = image.chroot([*image.entrypoint, *image.command])
        server = subprocess.Popen(command, env=image.all_variables())
        try:
            wait_for(f"http://127.0.0.1:{PORT}/readyz", server)
            say(f"ready after {time.monotonic() - began:.1f} s")
            wait_for(f"http://127.0.0.1:{PORT + 1}/ping", server)
            image.run(image.health)
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
    try:
        image.run(image.health)
    except subprocess.CalledProcessError:
        pass
    else:
        raise AssertionError("the health check is content although the server is gone")


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


def say(words: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {words}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build and try the CPU target without Docker.")
    parser.add_argument("--keep", type=Path, help="leave the roots in this folder")
    given = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise SystemExit("this needs root and debootstrap: apt-get install debootstrap")
    began = time.monotonic()
    roots = given.keep or Path(tempfile.mkdtemp(prefix="lipsync-image-"))
    roots.mkdir(parents=True, exist_ok=True)
    try:
        image = build(stages(REPOSITORY / "Dockerfile"), TARGET, roots, {})
        n_bytes = size_of(image.root)
        say(f"the {TARGET} target has {n_bytes / 1e9:.2f} GB")
        assert n_bytes < MAX_BYTES, "that is more than 1.5 GB"
        check(image)
        say(f"all of it took {time.monotonic() - began:.0f} s")
    finally:
        if given.keep is None:
            shutil.rmtree(roots, ignore_errors=True)


if __name__ == "__main__":
    main()
