"""Documents are tested: what a .md file shows is run or checked.

In every tracked .md file:
- ```sh blocks run, those of one file in order and in one scratch folder, which sees the tree's files by their relative
  paths and the program as `kineograph`. ```sh no-run blocks do not; of those, and of all others, `make TARGET` must
  name a target of the Makefile.
- ```cpp blocks compile against the public headers. One without main() is the inside of a function.
- ```python blocks compile; ```json blocks parse.
- Relative links, and `code/like/this` whose first folder is in the tree, lead to something that is there.

usage: documents_test.py SOURCE PROGRAM COMPILER
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT, PROGRAM, COMPILER = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```\s*$", re.M | re.S)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
CODE = re.compile(r"`([^`\n]+)`")
# Made by running the project, so not there in a clean tree.
MADE = {"build", "demo"}


def documents():
    listing = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        capture_output=True,
        text=True,
    )
    names = (
        listing.stdout.split("\n")
        if listing.returncode == 0
        else [p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.md") if p.relative_to(ROOT).parts[0] not in MADE]
    )
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def make_targets():
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))


def run(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, **more)
    return "" if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout}{done.stderr}"


def run_shell(code, scratch):
    environment = dict(os.environ, PATH=f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}")
    return run(["bash", "-euo", "pipefail", "-c", code], cwd=scratch, env=environment)


def compile_cpp(code, scratch):
    if "main(" not in code:
        includes = [line for line in code.split("\n") if line.startswith("#include")]
        body = [line for line in code.split("\n") if not line.startswith("#include")]
        code = "\n".join(["#include <kineograph/kineograph.h>", *includes, "void sample() {", *body, "}"])
    source = pathlib.Path(scratch) / "block.cc"
    source.write_text(code)
    return run([COMPILER, "-std=c++20", "-fsyntax-only", "-I", ROOT / "include", source])


def check_block(language, code, scratch):
    if language == "sh":
        return run_shell(code, scratch)
    if language == "cpp":
        return compile_cpp(code, scratch)
    try:
        if language == "python":
            compile(code, "block", "exec")
        elif language == "json":
            json.loads(code)
    except ValueError as error:
        return str(error)
    except SyntaxError as error:
        return str(error)
    return ""


def missing_paths(document, text):
    prose = FENCE.sub("", text)
    for link in LINK.findall(prose):
        if "://" not in link and not (document.parent / link).exists():
            yield f"a link leads nowhere: {link}"
    for code in CODE.findall(prose):
        path = re.fullmatch(r"([\w.-]+)/[\w./*-]*", code)
        if path and path[1] not in MADE and (ROOT / path[1]).exists() and not list(ROOT.glob(code.rstrip("/"))):
            yield f"no such file: {code}"


def problems(document):
    text = document.read_text()
    yield from missing_paths(document, text)
    for target in re.findall(r"(?:^|`|&& )make ([a-z][\w-]*)", text, re.M):
        if target not in make_targets():
            yield f"the Makefile has no target {target}"
    with tempfile.TemporaryDirectory() as scratch:
        for entry in ROOT.iterdir():
            if entry.name not in MADE and not entry.name.startswith("."):
                (pathlib.Path(scratch) / entry.name).symlink_to(entry)
        for number, (language, code) in enumerate(FENCE.findall(text), 1):
            problem = check_block(language.strip(), code, scratch)
            if problem:
                yield f"block {number} ({language}): {problem}"


def main():
    found = [(document, problem) for document in documents() for problem in problems(document)]
    for document, problem in found:
        print(f"{document.relative_to(ROOT)}: {problem}")
    if not documents():
        print("found no documents")
    return bool(found) or not documents()


sys.exit(main())
