"""Writing files so that nobody ever meets half of one, and reading them so that a damaged one says which it is.

Every file that tslab writes goes to a temporary name in the same folder first and is renamed when it is complete.
"""

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import platformdirs
from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import pandas as pd


class DamagedFileError(ValueError):
    """A file that cannot be what it should be. The message names it and the way out."""


class FolderInUseError(RuntimeError):
    """Another process writes into the folder. The message names it and the next step."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends without an error.

    The temporary file lies in the folder of ``path`` (created if needed), so the final rename is atomic; its name
    starts with a dot. If the block raises, the temporary file is removed and an existing ``path`` stays as it was.

    Raises:
        OSError: the disk is full (ENOSPC or a quota); names ``path``.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # as an ordinary new file, not mkstemp's 600
        os.replace(temporary, target)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"no space left to write {target}; nothing was changed there; free some space and run it again"
        raise OSError(error.errno, message) from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to ``path``, completely or not at all."""
    data = content.encode() if isinstance(content, str) else content
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_json(path: str | os.PathLike[str], *, remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: of the file.
        remedy: the way out, for the message: "delete it and run the same command again".

    Raises:
        FileNotFoundError: no such file.
        DamagedFileError: not UTF-8, not JSON, or something else than an object; names the file and ``remedy``.
    """
    try:
        content = json.loads(Path(path).read_bytes().decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} holds {type(content).__name__}, not a JSON object; {remedy}")
    return content


def data_folder() -> Path:
    """tslab's cache folder: ``TSLAB_DATA``, by default the platform's cache folder for tslab."""
    return Path(os.environ.get("TSLAB_DATA") or platformdirs.user_cache_dir("tslab")).expanduser()


def packaged_json(name: str) -> Any:
    """What the JSON file ``name`` among the package's own data says."""
    return json.loads((files("tslab") / "data" / name).read_text(encoding="utf-8"))


def read_csv(path: str | os.PathLike[str] | IO[str], **options: Any) -> "pd.DataFrame":
    """`pandas.read_csv` that gives the float that was written, to the last bit, with every pandas.

    Before 3.1 pandas took a parser by default that is one unit in the last place off now and then.
    """
    import pandas as pd

    if tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1):
        options["float_precision"] = "round_trip"
    return pd.read_csv(path, **options)


@contextmanager
def only_writer(path: str | os.PathLike[str], *, hint: str, wait: float = 0.0, keep: bool = True) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs, so that no other process (or thread) writes at the same time.

    The lock ends with the process, however it ends; the empty lock file may stay then.

    Args:
        path: of the lock file, beside or in the folder that it guards.
        hint: the next step, for the message.
        wait: seconds to wait for another writer to end.
        keep: leave the empty lock file at the end; False removes it, for folders that are others' to look at.

    Raises:
        FolderInUseError: another writer holds the lock; names ``path`` and ``hint``.
    """
    lock = Path(path)
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=wait)
    except Timeout as error:
        message = f"{lock.parent} is being written by another process (lock file {lock.name}); {hint}"
        raise FolderInUseError(message) from error
    try:
        yield
    finally:
        if not keep:
            with suppress(OSError):
                lock.unlink()
        held.release()
