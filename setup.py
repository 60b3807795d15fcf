"""Puts the files that are no packages into the wheel, as `darkroom/shipped`; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = ("backends/*/*.py", "policies/*.yaml")


class BuildWithFiles(build_py):
    """Copies them beside the packages. An editable installation finds them in the checkout."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        shutil.rmtree(self.build_lib, ignore_errors=True)  # or modules that are gone would stay in the wheel
        super().run()
        here = Path(__file__).parent
        for path in (path for pattern in FILES for path in here.glob(pattern)):
            copy = Path(self.build_lib, "darkroom", "shipped", path.relative_to(here))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


setup(cmdclass={"build_py": BuildWithFiles})
