"""Documents are tested: what a .md file shows is run or checked.

In every tracked .md file:
- ```sh blocks run, those of one file in order and in one scratch folder, which sees the tree's files by their relative
  paths and the program as `kineograph`. Files that a reader is to have (noisy.mp4, mm_sd_v15_v2.ckpt) are small ones
  of their kind, see stand_ins(). ```sh no-run blocks do not run; of those, and of all others, `make TARGET` must name
  a target of the Makefile.
- ```cpp blocks compile against the public headers. One without main() is the inside of a function.
- ```python blocks compile; ```json blocks parse.
- Relative links, and `code/like/this` whose first folder is in the tree, lead to something that is there.

The examples at the end of every command's help run too, in the order of `kineograph --help`.

usage: documents_test.py SOURCE PROGRAM COMPILER
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import struct
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


def write_lora(path):
    """A LoRA of rank 1 for one attention of tests/checkpoints/animatediff_v2.ckpt, under the original's names."""
    block = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0"
    name = f"{block}.attention_blocks.0.processor.to_q_lora"
    header = {
        f"{name}.down.weight": {"dtype": "F32", "shape": [1, 32], "data_offsets": [0, 128]},
        f"{name}.up.weight": {"dtype": "F32", "shape": [32, 1], "data_offsets": [128, 256]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + struct.pack("<64f", *([0.1] * 64)))


def write_npy(path, shape):
    count = 1
    for extent in shape:
        count *= extent
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(4 * count))


def stand_ins(scratch):
    """Small files in place of those that a reader of the documents is to have."""
    scratch = pathlib.Path(scratch)
    shutil.copy(ROOT / "tests/checkpoints/animatediff_v2.ckpt", scratch / "mm_sd_v15_v2.ckpt")
    write_lora(scratch / "pan_left.ckpt")
    write_npy(scratch / "in.npy", (16, 32, 2, 2))
    # A model for patches of 8 x 8 pixels.
    config = {"in_channels": 192, "num_attention_heads": 2, "attention_head_dim": 8, "norm_num_groups": 1}
    (scratch / "patches.json").write_text(json.dumps(config))
    problem = run([PROGRAM, "init", "--config", scratch / "patches.json", "-o", scratch / "patches"])
    assert not problem, problem
    video = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=8", "-frames:v", "20", "-pix_fmt", "yuv420p"]
    if shutil.which("ffmpeg"):
        for name in ("clip.mp4", "clip.y4m", "noisy.mp4", "a.mp4", "b.mp4"):
            problem = run(["ffmpeg", "-v", "error", *video, scratch / name])
            assert not problem, problem


def run_shell(code, scratch):
    if "ffmpeg" in code and not shutil.which("ffmpeg"):
        return ""
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
    with scratch_folder() as scratch:
        for number, (language, code) in enumerate(FENCE.findall(text), 1):
            problem = check_block(language.strip(), code, scratch)
            if problem:
                yield f"block {number} ({language}): {problem}"


@contextlib.contextmanager
def scratch_folder():
    with tempfile.TemporaryDirectory() as scratch:
        for entry in ROOT.iterdir():
            if entry.name not in MADE and not entry.name.startswith("."):
                (pathlib.Path(scratch) / entry.name).symlink_to(entry)
        stand_ins(scratch)
        yield scratch


def help_of(*arguments):
    done = subprocess.run([PROGRAM, *arguments, "--help"], capture_output=True, text=True, check=True)
    return done.stdout


def examples():
    """(command, example) from the help texts."""
    commands = re.findall(r"^  (\w+)  ", help_of().split("Subcommands:")[1], re.M)
    assert len(commands) >= 7, "found no commands in the help"
    for command in commands:
        found = re.search(r"^Examples?[^\n]*:\n((?:  [^\n]*\n?)+)", help_of(command), re.M)
        yield command, found[1] if found else ""


def help_problems():
    with scratch_folder() as scratch:
        for command, example in examples():
            if not example:
                yield f"the help of {command} has no example"
                continue
            # A whole run takes an hour; its first steps show that the options and the files are right.
            short = " --steps 2 --warmup 1 --batch 1 --crop 16" if command == "train" else ""
            problem = run_shell(example.rstrip() + short, scratch)
            if problem:
                yield f"the example of kineograph help {command}: {problem}"


def main():
    found = [f"{document.relative_to(ROOT)}: {problem}" for document in documents() for problem in problems(document)]
    found += help_problems()
    for problem in found:
        print(problem)
    if not documents():
        print("found no documents")
    return bool(found) or not documents()


sys.exit(main())
