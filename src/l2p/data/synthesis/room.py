"""Owns what is said when a disk is full while the corpus is drawn."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from l2p.errors import DataError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_MB = 1e6


@contextmanager
def room_on_disk(corpus: Path, progress: Callable[[], tuple[int, int]]) -> Iterator[None]:
    """Turn a full disk within the block into one sentence.

    Args:
        corpus: folder of the images.
        progress: how many images are drawn, and how many there are to be.

    Raises:
        DataError: the disk is full; says where and what remains.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        drawn, total = progress()
        sizes = [path.stat().st_size for path in corpus.rglob("*.png") if path.is_file()]
        need = (total - drawn) * sum(sizes) / len(sizes) / _MB if sizes else None
        room = f", about {need:.1f} MB" if need else ""
        where = error.filename or corpus
        raise DataError(
            f"{corpus}: no space left on its disk ({where}). {drawn} of {total} images are drawn and kept, "
            f"{total - drawn} remain{room}. Free space and run `l2p synthesize` again; it goes on from there."
        ) from error
