"""Includes go downwards only: holds every #include of the tree against the table below."""

import ast
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1])

# Room -> rooms it may include from, besides itself, the public headers and the world outside. A room is the longest
# entry that is a file's path or a folder above it.
ALLOWED = {
    "include": [],
    "src/base": [],
    "src/config": ["src/base"],
    "src/checkpoint": ["src/base"],
    "src/engine": ["src/base"],  # engine.h, the registry, and what engines share
    "src/engine/reference": ["src/engine", "src/base"],
    "src/engine/cuda": ["src/engine", "src/base"],
    # The rooms of the fused engine, from the ground up: pack, kernels, call, tile, forward, schedule, backward,
    # spatial, the plan.
    # Kernels know pointers and extents: no call, no workspace.
    "src/engine/cpu/pack": ["src/engine", "src/base"],
    "src/engine/cpu/kernels": ["src/engine/cpu/pack", "src/base"],
    "src/engine/cpu/call": ["src/engine/cpu/kernels", "src/engine/cpu/pack", "src/engine", "src/base"],
    "src/engine/cpu/tile": [
        "src/engine/cpu/call",
        "src/engine/cpu/kernels",
        "src/engine/cpu/pack",
        "src/engine",
        "src/base",
    ],
    "src/engine/cpu/forward": [
        "src/engine/cpu/tile",
        "src/engine/cpu/call",
        "src/engine/cpu/kernels",
        "src/engine/cpu/pack",
        "src/engine",
        "src/base",
    ],
    "src/engine/cpu/schedule": [
        "src/engine/cpu/forward",
        "src/engine/cpu/tile",
        "src/engine/cpu/call",
        "src/engine/cpu/kernels",
        "src/engine/cpu/pack",
        "src/engine",
        "src/base",
    ],
    "src/engine/cpu/backward": [
        "src/engine/cpu/schedule",
        "src/engine/cpu/tile",
        "src/engine/cpu/call",
        "src/engine/cpu/kernels",
        "src/engine/cpu/pack",
        "src/engine",
        "src/base",
    ],
    "src/engine/cpu/spatial": [
        "src/engine/cpu/forward",
        "src/engine/cpu/schedule",
        "src/engine/cpu/tile",
        "src/engine/cpu/call",
        "src/engine/cpu/kernels",
        "src/engine/cpu/pack",
        "src/engine",
        "src/base",
    ],
    "src/engine/cpu": [
        "src/engine/cpu/backward",
        "src/engine/cpu/spatial",
        "src/engine/cpu/schedule",
        "src/engine/cpu/tile",
        "src/engine/cpu/call",
        "src/engine/cpu/pack",
        "src/engine",
        "src/base",
    ],
    "src/model": ["src/checkpoint", "src/config", "src/engine", "src/base"],
    "src/c": [],
    "video": ["src/base"],
    "cli": ["video", "src/base"],
    "python": ["video"],
    "bench": ["src/engine", "src/base"],
    "fuzz": ["cli", "video", "src/checkpoint", "src/model"],
    "examples": [],
}
# Files of the Python package, from the ground up: each imports from those before it, and from nothing behind it.
PYTHON = [
    "_native",
    "errors",
    "statistics",
    "threads",
    "recording",
    "context",
    "native_model",
    "model",
    "spatial",
    "film",
    "plot",
    "diffusers/upstream",
    "operators",
    "diffusers/blocks",
    "diffusers/accounts",
    "diffusers/records",
    "diffusers/specification",
    "diffusers/spatial_specification",
    "diffusers/eligibility",
    "diffusers/arguments",
    "diffusers/native",
    "diffusers/modules",
    "diffusers/spatial",
    "diffusers/acceleration",
    "diffusers/structure",
    "diffusers/exchange",
    "diffusers/temporal_layers",
    "diffusers/parallel",
    "diffusers/__init__",
    "api",
    "__init__",
]
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def room_of(path):
    return max(
        (room for room in ALLOWED if path == room or path.startswith((room + "/", room + "."))), key=len, default=None
    )


def resolve(including, name):
    """The file of the tree that an include names, or None for what lies outside it."""
    for base in (including.parent, ROOT / "src", ROOT / "include", ROOT / "cli", ROOT):
        if (base / name).is_file():
            return (base / name).resolve().relative_to(ROOT.resolve()).as_posix()
    return None


def python_imports(file):
    """Names in PYTHON of the package's files that a file imports, wherever in it."""
    package = ROOT / "python/kineograph"
    here = file.relative_to(package).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            base = here[: len(here) - node.level + 1] + tuple((node.module or "").split(".") if node.module else ())
            names = [base + (alias.name,) for alias in node.names]
            for name in names:
                for candidate in ("/".join(name), "/".join(base), "/".join((*name, "__init__"))):
                    if candidate in PYTHON:
                        yield candidate
                        break


def python_errors():
    files = sorted((ROOT / "python/kineograph").rglob("*.py"))
    assert len(files) > 10, "found no Python to check"
    for file in files:
        name = file.relative_to(ROOT / "python/kineograph").with_suffix("").as_posix()
        if name not in PYTHON:
            yield f"python/kineograph/{name}.py: not in the list of tests/house/includes_test.py"
            continue
        for other in python_imports(file):
            if PYTHON.index(other) >= PYTHON.index(name):
                yield f"python/kineograph/{name}.py may not import {other}, which stands above it"


def main():
    errors, includes = list(python_errors()), 0
    for room in ("include", "src", "video", "cli", "python", "bench", "fuzz", "examples"):
        for file in sorted((ROOT / room).rglob("*")):
            if file.suffix not in (".h", ".cc"):
                continue
            path = file.relative_to(ROOT).as_posix()
            here = room_of(path)
            if here is None:
                errors.append(f"{path}: in a room the table of tests/house/includes_test.py does not know")
                continue
            for name in INCLUDE.findall(file.read_text()):
                target = resolve(file, name)
                includes += 1
                there = target and room_of(target)
                if target is None or there == here or there == "include" or there in ALLOWED[here]:
                    continue
                errors.append(f"{path}: {here} may not include {target}")
    assert includes > 20, "found no includes to check"
    for error in errors:
        print(error)
    return bool(errors)


sys.exit(main())
