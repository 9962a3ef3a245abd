"""Writes a compilation database for clang-tidy: every source of the tree once, generated ones left out.

usage: lint_database.py IN OUT   (prints the sources' paths below the current folder)
"""

import json
import os
import pathlib
import sys


def main(source, target):
    root = pathlib.Path.cwd()
    commands = {}
    for command in json.loads(pathlib.Path(source).read_text()):
        path = os.path.relpath(command["file"], root)
        if not path.startswith(("..", "build/")):
            commands.setdefault(path, command)
    pathlib.Path(target).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(target).write_text(json.dumps(list(commands.values())))
    print("\n".join(sorted(commands)))


main(sys.argv[1], sys.argv[2])
