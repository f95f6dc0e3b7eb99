"""Marks a finished MP4 as generated, in machine-readable form.

Article 50 of the EU's AI act asks for such a mark. Two marks are written, because some programs read only one of them:
    XMP    a packet of metadata with IPTC's `DigitalSourceType` trainedAlgorithmicMedia and the program's name, in a
           `uuid` box at the end of the file; photo and asset tools read it.
           https://iptc.org/standards/photo-metadata, https://developer.adobe.com/xmp
    C2PA   a signed manifest with the same statement and a hash of the file: a later change of picture or sound makes
           the signature invalid. In a `uuid` box behind `ftyp`; `moov` stays before `mdat`. https://spec.c2pa.org

The marks contain nothing about the person, the prompt or the server. Knows boxes and manifests; does not know engines.
"""

import json
import uuid
from pathlib import Path
from xml.sax.saxutils import quoteattr

import c2pa

from lipsync_server.media.info import Mark
from lipsync_server.media.mp4.certificate import read_identity
from lipsync_server.version import __version__

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP_BOX = uuid.UUID("be7acfcb-97a9-42e8-9c71-999491e3afac").bytes
_MIME_TYPE = "video/mp4"


def mark_video(path: Path, mark: Mark) -> None:
    """Write both marks into the MP4 at `path`, which no other program has opened yet.

    Raises OSError, ValueError or c2pa.C2paError where the file cannot be signed. The video can be played all the same,
    with the XMP mark or without one.
    """
    with path.open("ab") as video:
        video.write(_box(XMP_BOX + _xmp(mark)))
    if mark.signing_file is None:
        return
    identity = read_identity(mark.signing_file)
    algorithm = c2pa.C2paSigningAlg[identity.algorithm.upper()]
    info = c2pa.C2paSignerInfo(algorithm, identity.certificates, identity.key, None)
    signed = path.with_name(f"{path.name}.signed")
    try:
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(json.dumps(_manifest(mark))) as builder,
            path.open("rb") as source,
            signed.open("w+b") as target,
        ):
            builder.sign(signer, _MIME_TYPE, source, target)
        signed.replace(path)
    finally:
        signed.unlink(missing_ok=True)


def _box(content: bytes) -> bytes:
    """An MP4 box of the extended type `uuid`; `content` begins with that type."""
    return (8 + len(content)).to_bytes(4) + b"uuid" + content


def _xmp(mark: Mark) -> bytes:
    tool = quoteattr(f"Lipsync {__version__}, engine {mark.engine}")
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool={tool}
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>""".encode()


def _manifest(mark: Mark) -> dict[str, object]:
    agent = {"name": f"Lipsync, engine {mark.engine}", "version": __version__}
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "softwareAgent": agent}
    return {
        "claim_generator_info": [{"name": "Lipsync", "version": __version__}],
        "format": _MIME_TYPE,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }
