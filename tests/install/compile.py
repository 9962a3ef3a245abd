"""Reads every source of a configured build with a compiler, a warning being an error, and writes nothing.

usage: compile.py FOLDER COMPILER, the FOLDER being CMake's, with its compile_commands.json
"""

import json
import os
import pathlib
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

folder, compiler = sys.argv[1:]


def read(entry):
    command = shlex.split(entry["command"])
    # The launcher, the compiler and the output are that build's; -fsyntax-only instantiates templates all the same.
    first = next(i for i, word in enumerate(command) if word.startswith("-"))
    arguments = command[first : command.index("-o")]
    if "clang" in compiler:
        arguments.append("-Wno-unknown-warning-option")  # the build's compiler may know more of them
    of_c = compiler.replace("clang++", "clang").replace("g++", "gcc")
    checked = [
        of_c if entry["file"].endswith(".c") else compiler,
        *arguments,
        "-Werror",
        "-fsyntax-only",
        entry["file"],
    ]
    run = subprocess.run(checked, cwd=entry["directory"], capture_output=True, text=True)
    return entry["file"], run.returncode, run.stderr


entries = json.loads(pathlib.Path(folder, "compile_commands.json").read_text())
with ThreadPoolExecutor(os.cpu_count()) as pool:
    results = list(pool.map(read, entries))
failures = [(file, said) for file, code, said in results if code]
for file, said in failures:
    print(f"{file}\n{said}", file=sys.stderr)
print(f"{compiler}: {len(results) - len(failures)} of {len(results)} without a warning")
sys.exit(bool(failures) or not results)
