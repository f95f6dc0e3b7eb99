"""Write the hub's current commits, sizes and checksums into a manifest: `python -m lipsync_server.weights.pin FILE`.

If the revisions of a manifest are branches (`main`), users get a new file without notice when its owner replaces it. A
pinned manifest has commits and SHA-256 sums, so that everybody gets the tested bytes. The maintainer runs this before a
release, on a machine that reaches the hub; the server never runs it.
"""

import argparse
import json
import re
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url

from lipsync_server.errors import LipsyncError
from lipsync_server.weights.download import explained, hub_endpoint
from lipsync_server.weights.manifest import Manifest, load_manifest

_SHA256 = re.compile(r"[0-9a-f]{64}")


def pinned(manifest: Manifest) -> Manifest:
    """`manifest` with a commit for every source, and with the true size and the SHA-256 of every file.

    The hub publishes the SHA-256 of large files only; the commit fixes the content of small ones. Raises WeightsError.
    """
    commits: dict[str, str] = {}
    files = {}
    for key, file in manifest.files.items():
        source = manifest.sources[file.source]
        with explained(manifest, file):
            url = hf_hub_url(source.repository, file.path, revision=source.revision, endpoint=hub_endpoint())
            announced = get_hf_file_metadata(url, endpoint=hub_endpoint())
        if announced.commit_hash:
            commits[file.source] = announced.commit_hash
        is_sum = announced.etag is not None and _SHA256.fullmatch(announced.etag) is not None
        update: dict[str, object] = {"sha256": announced.etag if is_sum else file.sha256}
        if announced.size is not None:
            update |= {"size_bytes": announced.size, "size_exact": True}
        files[key] = file.model_copy(update=update)
    sources = {
        key: source.model_copy(update={"revision": commits.get(key, source.revision)})
        for key, source in manifest.sources.items()
    }
    return manifest.model_copy(update={"files": files, "sources": sources})


def main() -> None:
    """Pin the manifest on the command line."""
    parser = argparse.ArgumentParser(description="Pin a weights manifest to the hub's current commits and checksums.")
    parser.add_argument("manifest", type=Path)
    path: Path = parser.parse_args().manifest
    try:
        fixed = pinned(load_manifest(path))
    except LipsyncError as error:
        raise SystemExit(error.detail) from None
    text = json.dumps(fixed.model_dump(mode="json"), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
