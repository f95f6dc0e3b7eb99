"""Reads the seal of a video, its C2PA manifest, with the public reader: `python seal.py VIDEO` prints it as JSON.

The manifest is signed and covers every byte of the file, so one changed byte makes the seal invalid.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import c2pa


@dataclass(frozen=True)
class Seal:
    """state: the reader's verdict, "Valid" or "Invalid". source_types: the digitalSourceType of each action."""

    state: str
    source_types: list[str]


def seal_of(video: Path) -> Seal:
    """Raises c2pa.C2paError where the file has no manifest."""
    with c2pa.Reader(str(video)) as reader:
        state, manifest = str(reader.get_validation_state()), json.loads(reader.json())
    active = manifest["manifests"][manifest["active_manifest"]]
    actions = [
        action
        for assertion in active["assertions"]
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"]["actions"]
    ]
    return Seal(state, [action["digitalSourceType"] for action in actions if "digitalSourceType" in action])


if __name__ == "__main__":
    print(json.dumps(asdict(seal_of(Path(sys.argv[1])))))
