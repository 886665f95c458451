"""How the chapters are executed: in which kernel, when again, and side by side.

myst-nb runs a chapter when it reads it, one after the other, and keeps the outputs in a cache. Most of the time of
a build goes into that, on one processor; so the chapters that are not in the cache run first, one on each processor,
and myst-nb finds them there. A chapter that fails is left to myst-nb, which runs it again and reports the error.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from myst_nb.core.read import is_myst_markdown_notebook
from repository import ROOT
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging
from status import versions

EXT = Path(__file__).resolve().parent

logger = logging.getLogger(__name__)


def prepare(app: Sphinx, config: Config) -> None:
    """``config-inited``: set the kernel and the cache up for this build."""
    build = Path(app.outdir).parent
    prepare_kernel(build / "ipython")
    key = execution_key()
    caches = build / "cache"
    for old in caches.iterdir() if caches.exists() else ():
        if old.name != key:
            shutil.rmtree(old)
    config.nb_execution_cache_path = str(caches / key)
    config.tslab_execution_key = key  # a new key reads every chapter again


def prepare_kernel(folder: Path) -> None:
    """Make an IPython profile for the kernels of this build; they inherit the environment of this process."""
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(EXT / "book_kernel.py", startup / "00-book.py")
    # The kernel warns at every start that it talks unencrypted, over the loopback interface.
    (startup.parent / "ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 40\n")
    os.environ["IPYTHONDIR"] = str(folder)
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"  # each chapter has a processor of its own


def execution_key() -> str:
    """Digest of everything besides its own text that a chapter's output depends on."""
    sha = hashlib.sha256()
    files = [ROOT / "requirements.txt", EXT / "book_kernel.py"]
    for folder in (ROOT / "tslab", ROOT / "book" / "tslab_book", ROOT / "book" / "results"):
        files += sorted(path for path in folder.rglob("*.*") if path.is_file() and path.suffix != ".pyc")
    for path in files:
        sha.update(path.relative_to(ROOT).as_posix().encode())
        sha.update(path.read_bytes())
    for variable in ("TSLAB_MIRROR", "TSLAB_DATA"):
        sha.update(f"{variable}={os.environ.get(variable, '')}".encode())
    sha.update(str(versions()).encode())  # each page says which ones it was executed with
    return sha.hexdigest()[:16]


def execute_side_by_side(app: Sphinx, env: Any, docnames: list[str]) -> None:
    """``env-before-read-docs``: run the chapters about to be read that are not in the cache."""
    paths = [path for path in map(Path, map(env.doc2path, sorted(docnames))) if path.suffix == ".md"]
    chapters = [path for path in paths if is_myst_markdown_notebook(path.read_text(encoding="utf-8"))]
    cache = get_cache(app.config.nb_execution_cache_path)
    for path in chapters:
        cache.add_nb_to_project(str(path), read_data={"type": "plugin", "name": "myst_nb_md"})
    waiting = {record.pk: record.uri for record in cache.list_unexecuted(filter_uris=list(map(str, chapters)))}
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def run(pk: int) -> bool:
        executor = load_executor("local-serial", get_cache(app.config.nb_execution_cache_path), logger=logger)
        return bool(executor.run_and_cache(filter_pks=[pk], timeout=app.config.nb_execution_timeout).succeeded)

    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(run, pk): uri for pk, uri in waiting.items()}
        for number, done in enumerate(as_completed(running), start=1):
            name = Path(running[done]).relative_to(app.srcdir).as_posix()
            logger.info(f"executed {number} of {len(running)}: {name}{'' if done.result() else ', which failed'}")
