"""The program that came with the package: among the scripts of the environment, or beside a package by itself."""

import pathlib
import sysconfig

import kineograph

BESIDE = pathlib.Path(kineograph.__file__).parents[1] / "bin/kineograph"
PROGRAM = BESIDE if BESIDE.exists() else pathlib.Path(sysconfig.get_path("scripts")) / "kineograph"
