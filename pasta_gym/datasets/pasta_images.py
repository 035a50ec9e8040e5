"""Images of rater sessions, however a file stores them: bytes, paths, or files beside the table."""

from __future__ import annotations

import base64
import binascii
from functools import partial
from typing import Any

from pasta_gym.datasets.archive import Archive
from pasta_gym.datasets.records import DatasetError, Image
from pasta_gym.datasets.rows import Row, shown

PLACES: tuple[str, ...] = ("session_id", "turn", "column", "image", "turn1", "column1", "image1")
"""What a pattern of file names may hold; the last three count from 1."""

# JPEG, PNG and RIFF (WebP) in base64.
_BASE64 = ("/9j/", "iVBORw0KGgo", "UklGR")


def stored_image(row: Row, column: str, value: Any, key: str, archive: Archive, member: str) -> Image:
    """Return the image that a cell holds or names.

    Args:
        row: The row, for messages.
        column: The cell's column, for messages.
        value: Bytes, a struct of ``bytes`` and ``path``, base64, or a path inside the archive.
        key: The image's key where the cell holds bytes; of a path it is the member that the path leads to.
        archive: Where paths lead.
        member: The table's name in it.

    Raises:
        DatasetError: If the cell holds no image and no text.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray):
        return Image(key, partial(bytes, value))
    if not isinstance(value, str) or not value.strip():
        raise row.error(f"expected an image's bytes or path, got {shown(value)}", column)
    if value.startswith(_BASE64):
        return Image(key, partial(_from_base64, row, column, value))
    return _image_at(archive, value, member)


def patterned_slate(
    pattern: str, archive: Archive, member: str, session_id: str, turn: int, size: tuple[int, int]
) -> tuple[tuple[Image, ...], ...]:
    """Return the images of a slate whose file names follow a pattern.

    Args:
        pattern: Like ``images/{session_id}/{turn}_{column}_{image}.jpg``.
        archive: Where the files are.
        member: The table's name in it.
        session_id: The session.
        turn: The turn, from 0.
        size: Columns, and images in a column.
    """

    def image(column: int, number: int) -> Image:
        name = pattern.format(
            session_id=session_id,
            turn=turn,
            column=column,
            image=number,
            turn1=turn + 1,
            column1=column + 1,
            image1=number + 1,
        )
        return _image_at(archive, name, member)

    return tuple(tuple(image(column, number) for number in range(size[1])) for column in range(size[0]))


def check_pattern(pattern: str) -> None:
    """Check that a pattern names one file an image.

    Raises:
        ValueError: If it holds unknown places, or lacks one that tells images apart.
    """
    try:
        names = {
            pattern.format(session_id=s, turn=t, column=c, image=m, turn1=t + 1, column1=c + 1, image1=m + 1)
            for s in "ab"
            for t in (0, 1)
            for c in (0, 1)
            for m in (0, 1)
        }
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(f"image_pattern may hold {{{'}, {'.join(PLACES)}}}, got {pattern!r} ({error})") from error
    if len(names) != 16:
        raise ValueError(
            "image_pattern must hold the session, the turn, the column and the image, or two images have one file; "
            f"got {pattern!r}"
        )


def _image_at(archive: Archive, name: str, beside: str) -> Image:
    """Return the image of a path in a table; one path may lead to two images, each beside its own table."""
    member = archive.find(name, beside)
    if member is None:
        return Image(f"{beside}:{name}", partial(_missing, archive, name))
    return Image(member, partial(archive.read, member))


def _missing(archive: Archive, name: str) -> bytes:
    raise DatasetError(f"no member {name}, or several of that name", file=archive.path)


def _from_base64(row: Row, column: str, value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise row.error(f"broken base64 ({error})", column) from error
