"""Photo files that cameras never wrote: small ones of every kind, and ways to spoil their bytes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

Rng = np.random.Generator
SUFFIXES = [".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".JPG"]
# What tells libraries the kind of a file.
MAGIC = [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"GIF89a"]
MAGIC += [b"RIFF\x10\0\0\0WEBPVP8 ", b"\0\0\0\x0cjP  \r\n\x87\n", b"P6 9 9 255 "]
MAGIC += [b"\x76\x2f\x31\x01"]
HUGE = [0, 1, 0x7F, 0x7FFF, 0xFFFF, 30_000, 65_500, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000]


def originals() -> dict[str, bytes]:
    """Readable photos of 40 x 32 px: name of the kind -> file."""
    small = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    photo = Image.fromarray(small).resize((40, 32), Image.Resampling.BICUBIC)
    deep = Image.fromarray(np.asarray(photo)[..., 0].astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True, "quality": 50}),
        ("JPEG", "RGB", {"exif": turned}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("PNG", "1", {}),
        ("PNG", "I;16", {}),
        ("BMP", "RGB", {}),
        ("BMP", "P", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "L", {"compression": "tiff_deflate"}),
        ("TIFF", "I;16", {}),
        ("GIF", "P", {}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}),
    ]
    files = {}
    for i, (kind, mode, options) in enumerate(kinds):
        file = io.BytesIO()
        (deep if mode == "I;16" else photo.convert(mode)).save(file, kind, **options)
        files[f"{kind}-{mode}-{i}"] = file.getvalue()
    return files


def flip_bits(data: bytes, others: list[bytes], rng: Rng) -> bytes:
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    bits[rng.integers(0, len(bits), rng.integers(1, 20))] ^= 1
    return np.packbits(bits).tobytes()


def truncate(data: bytes, others: list[bytes], rng: Rng) -> bytes:
    return data[: rng.integers(0, len(data))]


def insert(data: bytes, others: list[bytes], rng: Rng) -> bytes:
    at = rng.integers(0, len(data))
    return data[:at] + rng.bytes(int(rng.integers(1, 50))) + data[at:]


def cut_out(data: bytes, others: list[bytes], rng: Rng) -> bytes:
    start, end = sorted(rng.integers(0, len(data), 2))
    return data[:start] + data[end:]


def overwrite(data: bytes, others: list[bytes], rng: Rng) -> bytes:
    at, count = int(rng.integers(0, len(data))), int(rng.integers(1, 30))
    return data[:at] + rng.bytes(count) + data[at + count :]


def splice(data: bytes, others: list[bytes], rng: Rng) -> bytes:
    """The beginning of one file and the end of another."""
    other = others[rng.integers(0, len(others))]
    at = rng.integers(0, 60)
    return data[:at] + other[rng.integers(0, 60) :]


def other_magic(data: bytes, others: list[bytes], rng: Rng) -> bytes:
    return MAGIC[rng.integers(0, len(MAGIC))] + data[rng.integers(0, 16) :]


def huge_number(data: bytes, others: list[bytes], rng: Rng) -> bytes:
    """A number of two or four bytes near the beginning becomes an extreme one."""
    value, at = HUGE[rng.integers(0, len(HUGE))], int(rng.integers(0, min(len(data), 200)))
    size = 2 if value <= 0xFFFF and rng.random() < 0.5 else 4
    field = value.to_bytes(size, "little" if rng.random() < 0.5 else "big")
    return data[:at] + field + data[at + size :]


def huge_size(data: bytes, others: list[bytes], rng: Rng) -> bytes:
    width, height = (int(rng.choice([1, 20, 40, 16_000, 32_000, 65_500])) for _ in range(2))
    return declare(data, width, height)


def declare(data: bytes, width: int, height: int) -> bytes:
    """The same file with another size in its header, with right checksums."""
    if data.startswith(b"\x89PNG"):
        header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    if data.startswith(b"\xff\xd8"):
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]
    if data.startswith(b"BM"):
        return data[:18] + struct.pack("<ii", width, height) + data[26:]
    if data.startswith(b"GIF"):
        return data[:6] + struct.pack("<HH", width, height) + data[10:]
    if data.startswith(b"II*"):
        for tag, size in ((256, width), (257, height)):
            at = data.find(struct.pack("<HHI", tag, 4, 1))
            at = at if at > 0 else data.find(struct.pack("<HHI", tag, 3, 1))
            data = data[: at + 2] + struct.pack("<HII", 4, 1, size) + data[at + 12 :]
        return data
    return data[:26] + struct.pack("<HH", width & 0x3FFF, height & 0x3FFF) + data[30:]  # WebP


def repeat(data: bytes, others: list[bytes], rng: Rng) -> bytes:
    start, end = sorted(rng.integers(0, len(data), 2))
    return data[:end] + data[start:end] * int(rng.integers(2, 20)) + data[end:]


def noise(data: bytes, others: list[bytes], rng: Rng) -> bytes:
    return MAGIC[rng.integers(0, len(MAGIC))] + rng.bytes(int(rng.integers(0, 500)))


def unchanged(data: bytes, others: list[bytes], rng: Rng) -> bytes:
    return data


MUTATIONS: list[Callable[[bytes, list[bytes], Rng], bytes]] = [
    flip_bits,
    truncate,
    insert,
    cut_out,
    overwrite,
    splice,
    other_magic,
    huge_number,
    huge_size,
    repeat,
    noise,
    unchanged,
]


def mutants(count: int, seed: int) -> list[tuple[str, bytes]]:
    """(file name, bytes); the name tells number, kind and mutation, its suffix may lie."""
    files, rng = originals(), np.random.default_rng(seed)
    names, contents = list(files), list(files.values())
    found = []
    for i in range(count):
        which, mutate = i % len(names), MUTATIONS[i // len(names) % len(MUTATIONS)]
        data = mutate(contents[which], contents, rng)
        name = f"{i:05}-{names[which]}-{mutate.__name__}"
        if rng.random() < 0.3:
            data = MUTATIONS[rng.integers(0, 5)](data or b"\0", contents, rng)
            name += "-twice"
        found.append((name + SUFFIXES[rng.integers(0, len(SUFFIXES))], data))
    return found
