"""Everything about the package stands in pyproject.toml, but for one thing that it cannot say: an installed tslab
carries the committed results of the book and of the benchmarks, so that the chapters also show them where there is no
clone (Colab).
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
RESULTS = (ROOT / "book" / "results", ROOT / "benchmarks" / "results")


class BuildWithResults(build_py):
    """Copy the committed results into ``tslab/data/results`` of the build; an editable install reads the originals."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "tslab" / "data" / "results"
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(file for folder in RESULTS for file in folder.glob("*.*")):
            shutil.copyfile(file, target / file.name)


setup(cmdclass={"build_py": BuildWithResults})
