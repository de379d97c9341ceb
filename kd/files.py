"""Files and directories that a crash cannot tear."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old one or the new one whole."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        # A full disk does not say whose write it refused.
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def replace_directory(target: Path) -> Iterator[Path]:
    """Yields an empty sibling of `target` that takes its place when the block succeeds.

    POSIX cannot rename onto a directory that is not empty, so the old one is first
    renamed to `.<name>.old`: a reader sees the old one, for an instant none, or the
    new one, and never a mixture. If the block fails, the old one stays. What a kill
    leaves beside `target`, the next use repairs; there must be one writer at a time.
    """
    old, partial = (target.with_name(f".{target.name}.{role}") for role in ("old", "partial"))
    if old.exists() and not target.exists():
        old.rename(target)
    for stray in (old, partial):
        shutil.rmtree(stray, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if target.exists():
            target.rename(old)
        partial.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    finally:
        for stray in (old, partial):
            shutil.rmtree(stray, ignore_errors=True)
