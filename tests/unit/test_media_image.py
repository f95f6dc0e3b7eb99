"""Pictures: every kind that is promised is read upright in 8-bit RGB, and nothing else gets as far as a decoder."""

import io
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import black_png, jpeg_with_empty_scans, png_chunk
from lipsync_server.errors import InvalidImage, UnsupportedMedia
from lipsync_server.media.picture.colour import BACKDROP
from lipsync_server.media.picture.still import load_image, probe_image
from lipsync_server.media.picture.still_or_video import probe_picture
from PIL import Image, ImageCms

LIMIT = 64_000_000


def quadrants(width: int = 160, height: int = 120) -> Image.Image:
    """Red, green, blue and white quarters: shows turning, mirroring and swapped channels."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (220, 30, 30)
    pixels[: height // 2, width // 2 :] = (30, 200, 30)
    pixels[height // 2 :, : width // 2] = (30, 30, 210)
    pixels[height // 2 :, width // 2 :] = (240, 240, 240)
    return Image.fromarray(pixels)


def corner_colours(pixels: np.ndarray) -> np.ndarray:
    """Mean colours of the middles of the four quarters: top left, top right, bottom left, bottom right."""
    h, w = pixels.shape[:2]
    spots = [(h // 4, w // 4), (h // 4, 3 * w // 4), (3 * h // 4, w // 4), (3 * h // 4, 3 * w // 4)]
    return np.array([pixels[y - 4 : y + 4, x - 4 : x + 4].mean((0, 1)) for y, x in spots])


WANTED = corner_colours(np.asarray(quadrants()))


def linear_grey_profile() -> bytes:
    """An ICC profile for greys whose levels are proportional to light."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63_190, 65_536, 54_061)
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)
    head = struct.pack(">I4sI4s4s4s", 188, b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white[8:]
    table = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, 12)
    return head.ljust(128, b"\0") + table + white + curve


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP"])
def test_each_promised_format_is_read_whatever_its_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture.txt"
    quadrants().save(path, format=kind)
    pixels = load_image(path, max_pixels=LIMIT)
    assert pixels.shape == (120, 160, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(corner_colours(pixels) - WANTED).max() < 12
    info = probe_image(path, max_pixels=LIMIT)
    assert (info.width, info.height, info.format) == (160, 120, kind)


@pytest.mark.parametrize("mode", ["L", "P", "LA", "CMYK", "RGBA", "1", "YCbCr"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    path = tmp_path / "picture"
    quadrants().convert(mode).save(path, format=kind)
    pixels = load_image(path, max_pixels=LIMIT)
    assert pixels.shape == (120, 160, 3)
    if mode in ("P", "CMYK", "RGBA", "YCbCr"):
        assert np.abs(corner_colours(pixels) - WANTED).max() < 30
    else:
        grey = WANTED @ [0.299, 0.587, 0.114]
        assert (np.ptp(pixels, axis=2) == 0).all()
        if mode != "1":
            assert np.abs(corner_colours(pixels).mean(1) - grey).max() < 3


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    pixels = load_image(tmp_path / "grey.png", max_pixels=LIMIT)
    assert np.abs(pixels[:, :, 1].astype(int) - (ramp >> 8)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    turns = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    turn = turns[orientation]
    stored = quadrants() if turn is None else quadrants().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "p.jpg", exif=exif, quality=95)
    pixels = load_image(tmp_path / "p.jpg", max_pixels=LIMIT)
    assert pixels.shape == (120, 160, 3)
    assert np.abs(corner_colours(pixels) - WANTED).max() < 12
    info = probe_image(tmp_path / "p.jpg", max_pixels=LIMIT)
    assert (info.width, info.height) == (160, 120)


def test_transparency_is_blended_onto_light_grey(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, :32] = (200, 0, 0, 255)
    pixels[:32, 32:] = (0, 0, 0, 0)
    pixels[32:, 32:] = (0, 0, 0, 128)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    loaded = load_image(tmp_path / "a.png", max_pixels=LIMIT)
    assert loaded[10, 10].tolist() == [200, 0, 0]
    assert loaded[10, 50].tolist() == [BACKDROP] * 3
    assert np.abs(loaded[50, 50].astype(int) - BACKDROP / 2).max() <= 2


def test_transparent_palette_is_blended_too(tmp_path: Path) -> None:
    picture = Image.new("P", (64, 64), 0)
    picture.putpalette([255, 0, 255, 10, 20, 30])
    picture.paste(1, (0, 0, 32, 64))
    picture.save(tmp_path / "a.png", transparency=0)
    loaded = load_image(tmp_path / "a.png", max_pixels=LIMIT)
    assert loaded[5, 5].tolist() == [10, 20, 30]
    assert loaded[5, 60].tolist() == [BACKDROP] * 3


def test_a_broken_colour_profile_does_not_refuse_a_good_picture(tmp_path: Path) -> None:
    quadrants().save(tmp_path / "p.png", icc_profile=b"this is no profile at all")
    assert np.abs(corner_colours(load_image(tmp_path / "p.png", max_pixels=LIMIT)) - WANTED).max() < 2


def test_a_colour_profile_is_honoured(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    quadrants().save(tmp_path / "srgb.png", icc_profile=srgb)
    assert np.abs(corner_colours(load_image(tmp_path / "srgb.png", max_pixels=LIMIT)) - WANTED).max() < 3
    # A profile in which red and green have changed places.
    swapped = srgb.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)
    quadrants().save(tmp_path / "swapped.png", icc_profile=swapped)
    colours = corner_colours(load_image(tmp_path / "swapped.png", max_pixels=LIMIT))
    assert np.abs(colours - WANTED[:, [1, 0, 2]]).max() < 5


def test_the_first_frame_of_an_animation_is_used(tmp_path: Path) -> None:
    frames = [quadrants(), Image.new("RGB", (160, 120), (0, 0, 0))]
    for name, kind in (("a.gif", "GIF"), ("a.webp", "WEBP"), ("a.png", "PNG")):
        frames[0].save(tmp_path / name, format=kind, save_all=True, append_images=frames[1:], duration=100)
        assert np.abs(corner_colours(load_image(tmp_path / name, max_pixels=LIMIT)) - WANTED).max() < 25


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(black_png(20_000, 20_000))
    assert bomb.stat().st_size < 80_000
    for read in (load_image, probe_image):
        started = time.process_time()
        with pytest.raises(InvalidImage, match=r"20000 x 20000 pixels \(400.0 million\).*64.0 million"):
            read(bomb, max_pixels=LIMIT)
        assert time.process_time() - started < 0.2


def test_tiny_pictures_are_refused_with_the_size_that_is_needed(tmp_path: Path) -> None:
    quadrants(31, 300).save(tmp_path / "tiny.png")
    with pytest.raises(InvalidImage, match=r"31 x 300 pixels.*at least 32"):
        load_image(tmp_path / "tiny.png", max_pixels=LIMIT)
    quadrants(32, 32).save(tmp_path / "small.png")
    assert load_image(tmp_path / "small.png", max_pixels=LIMIT).shape == (32, 32, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF"])
@pytest.mark.parametrize("kept", [0.6, 0.1])
def test_a_cut_off_picture_is_reported_as_cut_off(tmp_path: Path, kind: str, kept: float) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (200, 200, 3), dtype=np.uint8))
    whole = io.BytesIO()
    noise.save(whole, format=kind)
    path = tmp_path / "cut"
    path.write_bytes(whole.getvalue()[: int(len(whole.getvalue()) * kept)])
    for read in (load_image, probe_image):
        with pytest.raises(InvalidImage, match="cut off"):
            read(path, max_pixels=LIMIT)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"just some words, renamed\n" * 20, "plain text"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"%PDF-1.7 \0\1\2", "PDF"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "wav file"),
        (bytes(range(1, 256)) * 4, "does not read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>", "plain text"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "PostScript drawing"),
    ],
)
def test_a_file_that_is_no_picture_is_refused_by_content_not_by_name(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(UnsupportedMedia, match=word):
        load_image(path, max_pixels=LIMIT)


def test_an_empty_file_is_reported_as_empty(tmp_path: Path) -> None:
    (tmp_path / "e.png").touch()
    with pytest.raises(InvalidImage, match="empty"):
        load_image(tmp_path / "e.png", max_pixels=LIMIT)


def test_formats_off_the_list_never_reach_their_decoder(tmp_path: Path) -> None:
    for name, kind in (("a.tif", "TIFF"), ("a.ppm", "PPM"), ("a.ico", "ICO"), ("a.tga", "TGA"), ("a.jp2", "JPEG2000")):
        quadrants().save(tmp_path / name, format=kind)
        with pytest.raises(UnsupportedMedia):
            load_image(tmp_path / name, max_pixels=LIMIT)


def heic(picture: Image.Image, **options: object) -> bytes:
    import pillow_heif

    file = io.BytesIO()
    pillow_heif.from_pillow(picture).save(file, quality=90, **options)
    return file.getvalue()


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"heis"])
def test_an_iphones_heic_is_read(tmp_path: Path, brand: bytes) -> None:
    path = tmp_path / "IMG_0001.HEIC"
    whole = heic(quadrants())
    path.write_bytes(whole[:8] + brand + whole[12:])
    assert np.abs(corner_colours(load_image(path, max_pixels=LIMIT)) - WANTED).max() < 12
    info = probe_picture(path, max_pixels=LIMIT)
    assert (info.width, info.height, info.is_video) == (160, 120, False)


def test_a_damaged_heic_is_called_a_damaged_picture_and_no_video(tmp_path: Path) -> None:
    path = tmp_path / "p.heic"
    for content in (heic(quadrants())[:400], b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)):
        path.write_bytes(content)
        with pytest.raises(InvalidImage, match=r"The picture is .*(damaged|cut off)"):
            probe_picture(path, max_pixels=LIMIT)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(64), "a CR3 picture: export it as JPEG"),
        (b"II*\0" + bytes(200), "a camera's raw picture: export it as JPEG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64), "a JPEG XL picture: export it as JPEG"),
        (b"8BPS\0\1" + bytes(64), "a Photoshop file: export it as PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing: export it as PNG"),
        (b"[object Object]", r'plain text that begins with "\[object Object\]".*n8n Binary File'),
        (b'{"error": "quota exceeded"}', r'JSON\) that begins with "{"error".*n8n Binary File'),
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page, perhaps the error or login page.*n8n Binary File"),
        (b"data:image/png;base64,iVBORw0KGgo=", "a data URI.*send the bytes.*n8n Binary File"),
        (b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk", "base64 by its look.*n8n Binary File"),
        ("Grüße aus Köln, das ist kein Bild".encode(), 'begins with "Grüße aus Köln'),
    ],
)
def test_another_kind_of_file_in_place_of_a_picture_is_named_with_the_remedy(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(UnsupportedMedia, match=words):
        probe_picture(path, max_pixels=LIMIT)


def swapped_profile() -> bytes:
    """A colour profile in which red and green have changed places."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return srgb.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "P with transparency"])
def test_a_colour_profile_is_honoured_with_and_without_transparency(tmp_path: Path, mode: str) -> None:
    picture = quadrants().convert("RGBA" if mode == "RGBA" else "RGB")
    options: dict[str, Any] = {"icc_profile": swapped_profile()}
    if mode.startswith("P"):
        picture = picture.quantize(4)
        options |= {"transparency": 255} if "transparency" in mode else {}
    picture.save(tmp_path / "p.png", **options)
    colours = corner_colours(load_image(tmp_path / "p.png", max_pixels=LIMIT))
    assert np.abs(colours - WANTED[:, [1, 0, 2]]).max() < 5


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_grey_picture_with_a_profile_for_colours_stays_grey(tmp_path: Path, mode: str) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = quadrants().convert("L")
    picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    picture.save(tmp_path / "p.png", icc_profile=srgb)
    pixels = load_image(tmp_path / "p.png", max_pixels=LIMIT)
    assert np.ptp(pixels, axis=2).max() <= 1
    assert np.abs(pixels[:, :, 0].astype(int) - np.asarray(grey)).max() <= 2


@pytest.mark.parametrize("n_bits", [8, 16])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("declared", ["profile", "gamma"])
def test_a_grey_picture_of_linear_light_becomes_as_bright_as_it_was(
    tmp_path: Path, n_bits: int, transparent: bool, declared: str
) -> None:
    """Renderers and scanners store linear light, and declare that in a profile or in the PNG's chunk gAMA."""
    path, light = tmp_path / "p.png", 0.2
    level = round(light * (2**n_bits - 1))
    pixel = (level, 2**n_bits - 1)[: 1 + transparent]
    row = b"\0" + b"".join(value.to_bytes(n_bits // 8) for value in pixel) * 64
    header = struct.pack(">IIBBBBB", 64, 64, n_bits, 4 if transparent else 0, 0, 0, 0)
    colours = (
        png_chunk(b"iCCP", b"grey\0\0" + zlib.compress(linear_grey_profile()))
        if declared == "profile"
        else png_chunk(b"gAMA", struct.pack(">I", 100_000))
    )
    pixels = png_chunk(b"IDAT", zlib.compress(row * 64))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + colours + pixels + png_chunk(b"IEND", b""))
    shown = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(load_image(path, max_pixels=LIMIT).astype(float) - shown).max() < 3


@pytest.mark.parametrize("also", [b"", b"sRGB"])
def test_the_usual_gamma_of_a_png_changes_no_colour(tmp_path: Path, also: bytes) -> None:
    path = tmp_path / "p.png"
    quadrants().save(path)
    head, rest = path.read_bytes()[:33], path.read_bytes()[33:]
    gamma = png_chunk(b"gAMA", struct.pack(">I", 100_000 if also else 45_455))
    path.write_bytes(head + (png_chunk(also, b"\0") if also else b"") + gamma + rest)
    assert np.array_equal(load_image(path, max_pixels=LIMIT), np.asarray(quadrants()))


def test_colours_are_converted_before_they_are_blended(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, :32] = (200, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=swapped_profile())
    loaded = load_image(tmp_path / "a.png", max_pixels=LIMIT)
    assert loaded[5, 60].tolist() == [BACKDROP] * 3
    assert np.abs(loaded[5, 5].astype(int) - (0, 200, 0)).max() < 5


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(jpeg_with_empty_scans(200, 64))
    with pytest.raises(InvalidImage, match="more than 100 scans"):
        probe_image(tmp_path / "p.jpg", max_pixels=LIMIT)


@pytest.mark.parametrize("inserted", [b"\0\1", b"\xff", b"\xff" * 9, b"\xff\xd0", b"\xff\x01"])
@pytest.mark.parametrize("before", [b"\xff\xc2", b"\xff\xda"])
def test_bytes_between_the_segments_hide_no_scan(tmp_path: Path, before: bytes, inserted: bytes) -> None:
    """The decoder skips such bytes and continues with the next scan."""
    path = tmp_path / "p.jpg"
    path.write_bytes(jpeg_with_empty_scans(200, side=64).replace(before, inserted + before))
    with pytest.raises(InvalidImage, match="more than 100 scans"):
        probe_image(path, max_pixels=LIMIT)


@pytest.mark.parametrize("stray", [b"\r\n", b"\xef\xbb\xbf", bytes(9)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_stray_bytes_before_a_picture_are_left_out(tmp_path: Path, kind: str, stray: bytes) -> None:
    """A script that prints a file often prints a blank line or a byte order mark before it."""
    quadrants().save(tmp_path / "whole", kind)
    path = tmp_path / "p"
    path.write_bytes(stray + (tmp_path / "whole").read_bytes())
    assert probe_image(path, max_pixels=LIMIT).format == kind
    assert (load_image(path, max_pixels=LIMIT) == load_image(tmp_path / "whole", max_pixels=LIMIT)).all()


def test_a_progressive_jpeg_with_a_video_appended_is_read(tmp_path: Path) -> None:
    file = io.BytesIO()
    quadrants().save(file, "JPEG", progressive=True, quality=95)
    (tmp_path / "motion.jpg").write_bytes(file.getvalue() + b"\xff\xda\0\x02" * 500)
    assert np.abs(corner_colours(load_image(tmp_path / "motion.jpg", max_pixels=LIMIT)) - WANTED).max() < 12
