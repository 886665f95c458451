"""Where outcomes are kept: one small file for each finished job, nothing for an unfinished one; and where committed
records lie.

The name of a file follows from its job, so that a second call finds it and has nothing left to do. Files are written to
a temporary name and renamed: an interruption leaves finished jobs and no halves. A file that is damaged all the same is
named and left out; it never keeps the others from being read.
"""

import dataclasses
import gzip
import hashlib
import inspect
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tslab._files import DamagedFileError, atomic_write, only_writer, read_csv, read_json
from tslab.benchmark.runs import RunSpec
from tslab.earth import grid_cells
from tslab.encoders import ENCODERS
from tslab.released_files import INDEX, RELEASE, REPOSITORY, index_sha256
from tslab.training import resolve_device
from tslab.training.run import environment_of

REMEDY = "delete it and run the same command again"
RECORD_REMEDY = "take it from the repository again"
MEASURED = {"value": float, "low": float, "high": float, "n": "Int64", "details": object}
FIELDS = ("reason", "file", "seconds", "code")


class JobStore:
    """A folder of outcomes: ``folder/<name of the job>/result.json``, beside whatever else a job writes there. A job is
    any dataclass with a ``name`` that tells it from others."""

    KEY = "job"
    """Key of the job's own fields in its file."""
    FIELDS: tuple[str, ...] = ("metrics", "seconds")
    """What every outcome has."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def path(self, job: Any) -> Path:
        """Where the outcome of a job is kept."""
        return self.folder / job.name / "result.json"

    def load(self, job: Any) -> dict[str, Any] | None:
        """The outcome of a job, or None if it has not finished.

        Raises:
            DamagedFileError: the file belongs to another job or is damaged; says which to delete.
        """
        path = self.path(job)
        if not path.is_file():
            return None
        outcome = self._read(path)
        left_out = {
            field.name: field.default for field in dataclasses.fields(job)
        }  # by versions that had no such field
        if left_out | outcome[self.KEY] != json.loads(json.dumps(dataclasses.asdict(job))):
            raise DamagedFileError(
                f"{path} holds the outcome of another run; delete it or choose another output folder"
            )
        return outcome

    def save(self, job: Any, outcome: dict[str, Any]) -> None:
        """Keep the outcome of a job."""
        content = {self.KEY: dataclasses.asdict(job), **outcome}
        atomic_write(self.path(job), json.dumps(content, indent=1, sort_keys=True) + "\n")

    def _read(self, path: Path) -> dict[str, Any]:
        outcome = read_json(path, remedy=REMEDY)
        missing = [field for field in (self.KEY, *self.FIELDS) if field not in outcome]
        if missing or not isinstance(outcome[self.KEY], dict) or not isinstance(outcome["metrics"], dict):
            raise DamagedFileError(f"{path} is damaged (no {', '.join(missing) or 'metrics'}); {REMEDY}")
        return outcome


class ResultStore(JobStore):
    """A folder of runs. ``folder/runs/<name>.json`` is the outcome of a run, ``folder/manifest.json`` what the folder
    was made with. Where something was trained, ``folder/samples/<name>.csv.gz`` are its per-sample results, beside them
    ``<name>.json`` says which code made them, and ``folder/training/<name>`` is the training."""

    KEY = "spec"
    FIELDS = ("metrics", *FIELDS)

    def path(self, spec: RunSpec) -> Path:
        """Where the outcome of a run is kept."""
        return self.folder / "runs" / f"{spec.name}.json"

    def samples_path(self, spec: RunSpec) -> Path:
        """Where the per-sample results of a trained run are kept; the tables of one training share them."""
        return self.folder / "samples" / f"{self._training(spec)}.csv.gz"

    def training_path(self, spec: RunSpec) -> Path:
        """The folder of the training behind a run; the tables of one training share it."""
        return self.folder / "training" / self._training(spec)

    def samples(self, spec: RunSpec) -> pd.DataFrame:
        """The per-sample results of a trained run, with the column ``block`` where its split is by blocks.

        Raises:
            FileNotFoundError: there are none yet.
            DamagedFileError: the file is cut or changed; names it and the way out.
        """
        path = self.samples_path(spec)
        try:
            samples = read_csv(path)
        except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
            raise DamagedFileError(f"{path} is damaged ({error}); {REMEDY}") from error
        if spec.split == "block" and "block" not in samples:  # kept before samples said so
            samples["block"] = grid_cells(torch.tensor(samples[["lon", "lat"]].to_numpy(dtype=float))).numpy()
        return samples

    def made_by(self, spec: RunSpec) -> str:
        """The code that a training and its samples were made by; "" before a training begins, "unknown" where nothing
        says so."""
        path = self._made_by_path(spec)
        if not path.is_file() and not self.samples_path(spec).is_file():
            return ""
        try:
            return str(read_json(path, remedy=REMEDY)["code"])
        except (FileNotFoundError, DamagedFileError, KeyError):
            return "unknown"

    def begin(self, spec: RunSpec, code: str) -> None:
        """Make room for a training by ``code``: half a training by other code is removed. Call it while holding
        `training_lock`."""
        if self.made_by(spec) not in ("", code):
            shutil.rmtree(self.training_path(spec), ignore_errors=True)
        atomic_write(self._made_by_path(spec), json.dumps({"code": code}) + "\n")

    def begin_command(self, specs: Sequence[RunSpec], command: str, *, again: bool) -> None:
        """Note a command in the manifest; with ``again`` forget the trainings of its runs."""
        self.write_manifest(specs, command)
        for spec in specs if again else ():
            with self.training_lock(spec):
                self.samples_path(spec).unlink(missing_ok=True)
                shutil.rmtree(self.training_path(spec), ignore_errors=True)

    def training_lock(self, spec: RunSpec) -> AbstractContextManager[None]:
        """One process at a time trains for a run; another waits, and then finds the samples."""
        return only_writer(self._made_by_path(spec).with_suffix(".lock"), hint="wait for it to end", wait=-1)

    def write_manifest(self, specs: Sequence[RunSpec], command: str) -> None:
        """Write down code version, environment, checksum of the data and seeds; every command adds an entry."""
        path = self.folder / "manifest.json"
        packages = {name: version(name) for name in ("numpy", "scipy", "pandas")}
        reads_release = bool({"released", "released-points"} & {spec.source for spec in specs})
        entry = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command,
            "runs": len(specs),
            "seeds": sorted({spec.seed for spec in specs}),
            "code": code_version(),
            "environment": environment_of(resolve_device("auto")) | packages,
            "data": {INDEX: index_sha256()} if reads_release else {},
        }
        with only_writer(self.folder / "manifest.lock", hint="wait for it and run the same command again", wait=60):
            earlier = self._manifest(path)
            atomic_write(path, json.dumps({"commands": [*earlier, entry]}, indent=1) + "\n")

    def frame(self, specs: Sequence[RunSpec] | None = None) -> pd.DataFrame:
        """All finished runs (or those of ``specs``), one row for each run and metric.

        A damaged file is left out, with a warning that names it.

        Columns: those of `RunSpec`, then metric, value, low, high, n, details (a dict), reason (why there is no
        number), file (what was read), seconds, code (version that computed it).
        """
        paths = sorted(self.folder.glob("runs/*.json")) if specs is None else map(self.path, specs)
        rows = []
        for path in paths:
            try:
                rows += _rows(path, self._read(path))
            except FileNotFoundError:
                continue
            except DamagedFileError as error:
                warnings.warn(f"left out: {error}", stacklevel=2)
        columns = [*(field.name for field in dataclasses.fields(RunSpec)), "metric", *MEASURED, *FIELDS]
        return pd.DataFrame(rows, columns=columns).astype(MEASURED)

    @staticmethod
    def _training(spec: RunSpec) -> str:
        return spec.name.removeprefix(f"{spec.table}-")

    def _made_by_path(self, spec: RunSpec) -> Path:
        return self.folder / "samples" / f"{self._training(spec)}.json"

    @staticmethod
    def _manifest(path: Path) -> list[Any]:
        """The entries so far; a damaged manifest is set aside."""
        if not path.is_file():
            return []
        try:
            entries = read_json(path, remedy="it is set aside").get("commands")
            if isinstance(entries, list):
                return entries
        except DamagedFileError:
            pass
        aside = path.with_name(f"manifest-damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}.json")
        path.rename(aside)
        warnings.warn(f"{path} was damaged and is set aside as {aside.name}; a new one begins", stacklevel=3)
        return []


def find_record(path: str | os.PathLike[str]) -> Path:
    """The record at ``path``, or the committed one of the same name if ``path`` is not there.

    The committed record is looked for in ``book/results`` and ``benchmarks/results`` of the working folder and the
    folders above it, and of the repository that tslab is installed from; then in the installed package itself,
    which carries a copy (``setup.py`` puts it there).

    Raises:
        FileNotFoundError: none is there.
    """
    wanted = Path(path)
    here = Path.cwd()
    roots = (here, *here.parents, Path(__file__).parents[2])
    folders = [root / part / "results" for root in roots for part in ("book", "benchmarks")]
    folders.append(Path(str(files("tslab"))) / "data" / "results")
    for candidate in (wanted, *(folder / wanted.name for folder in folders)):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"no record {wanted.name} at {wanted} or in book/results; get the released files with "
        "`python data_scripts/fetch_released.py`, or run this in a clone of the repository"
    )


def release_stamp() -> dict[str, str]:
    """What every record made from the released files says: date (today, ISO format, UTC), repository and release."""
    today = datetime.now(UTC).date().isoformat()
    return {"date": today, "repository": REPOSITORY, "release": RELEASE}


def check_folder(name: str, folder: str | os.PathLike[str]) -> Path:
    """``folder`` if it is one that can be written, or can be made, else `ValueError`."""
    if not os.fspath(folder):
        raise ValueError(f"{name} is empty; name a folder")
    path = Path(folder)
    there = next((part for part in (path, *path.absolute().parents) if part.exists()), Path("."))
    if not there.is_dir():
        raise ValueError(f"{name} {path} cannot be a folder: {there} is a file")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{name} {path} cannot be written: {there} belongs to somebody else")
    return path


def code_version(encoder: str | None = None) -> str:
    """Version of tslab and a digest of its source, which tells two states of one version apart; for an encoder of one's
    own also a digest of the file that it stands in."""
    info = ENCODERS.get(encoder) if encoder is not None else None
    try:
        own = Path(inspect.getsourcefile(info.build) or "") if info is not None else Path()
    except (OSError, TypeError):  # made in a notebook: there is no file
        own = Path()
    if not own.is_file() or own.is_relative_to(Path(__file__).parents[1]):
        return _tslab_version()
    return f"{_tslab_version()}+{hashlib.sha256(own.read_bytes()).hexdigest()[:12]}"


@cache
def _tslab_version() -> str:
    import tslab

    folder = Path(tslab.__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*folder.rglob("*.py"), *folder.glob("data/*.json")]):  # facts decide numbers, too
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return f"{tslab.__version__}+{digest.hexdigest()[:12]}"


def _rows(path: Path, outcome: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of `ResultStore.frame` for one file."""
    kinds = {"value": float, "low": float, "high": float, "n": int, "details": dict}
    try:
        spec = RunSpec(**outcome["spec"])
        shared = {name: outcome[name] for name in FIELDS} | {"seconds": float(outcome["seconds"])}
        rows = []
        for metric in spec.metrics:
            found = outcome["metrics"].get(metric) or dict.fromkeys(kinds)
            numbers = {name: None if found[name] is None else kind(found[name]) for name, kind in kinds.items()}
            rows.append(dataclasses.asdict(spec) | {"metric": metric} | numbers | shared)
    except (TypeError, KeyError, ValueError) as error:
        raise DamagedFileError(f"{path} is damaged ({type(error).__name__}: {error}); {REMEDY}") from error
    if spec.name != path.stem:
        raise DamagedFileError(f"{path} holds the run {spec.name}; rename or delete it")
    return rows
