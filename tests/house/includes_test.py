"""Includes go downwards only: holds every #include of the tree against the table below."""

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
    # The rooms of the fused engine, from the ground up: pack, kernels, call, tile, forward, schedule, backward, the plan.
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
    "src/engine/cpu": [
        "src/engine/cpu/backward",
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
    "fuzz": ["video", "src/checkpoint", "src/model"],
    "examples": [],
}
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


def main():
    errors, includes = [], 0
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
