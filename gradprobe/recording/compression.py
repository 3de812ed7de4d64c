"""Compression of packed columns, which are inflated only up to the length that the file announces."""

from __future__ import annotations

import zlib

from gradprobe.errors import RecordingError

_FASTEST = 1


def deflate(raw: bytes) -> bytes:
    """Return ``raw`` compressed."""
    return zlib.compress(raw, _FASTEST)


def inflate(data: bytes, length: int, what: str) -> bytes:
    """Return the ``length`` bytes that were deflated to ``data``; ``what`` names them in errors.

    Raises ``RecordingError`` if ``data`` is not deflated, or is that of fewer or more bytes. A few kilobytes can inflate to
    gigabytes, so no more than one byte too many is inflated.
    """
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(data, max(length, 0) + 1)
    except (zlib.error, TypeError) as error:
        raise RecordingError(f"{what} cannot be inflated ({error})") from None
    if len(raw) != length or not inflater.eof:
        raise RecordingError(f"{what} is not as long as it says")
    return raw
