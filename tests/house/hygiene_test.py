"""Things that must not be in the tree: paths of a machine, stray addresses, files too large, no last newline."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(sys.argv[1])
MAX_BYTES = 1 << 20
MAX_MODEL_BYTES = 4_000_000  # trained weights, which the program ships with
MAX_LINES = 800
TEXT = {".cc", ".h", ".py", ".md", ".txt", ".cmake", ".sh", ".json", ".toml", ".in", ".yml", ".yaml", ""}
PLAIN_PATHS = re.compile(r"(?<![\w.])/(?:work|home|root|Users)/")
ADDRESS = re.compile(r"https?://([^/\s\"')>\]]+)")
HOSTS = {
    "github.com",
    "git-lfs.github.com",
    "huggingface.co",
    "arxiv.org",
    "www.apache.org",
    "json-schema.org",
    "keepachangelog.com",
    "semver.org",
    "www.w3.org",
}


def tracked():
    try:
        listing = subprocess.run(
            ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            check=True,
            capture_output=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return []  # an unpacked archive: nothing says which files are the project's
    return [ROOT / name.decode() for name in listing.split(b"\0") if name and (ROOT / name.decode()).is_file()]


def problems(file):
    data = file.read_bytes()
    most = MAX_MODEL_BYTES if file.suffix == ".safetensors" and "models" in file.parts else MAX_BYTES
    if len(data) > most:
        yield f"{len(data)} bytes, more than {most}"
    if file.suffix not in TEXT or b"\0" in data:
        return
    text = data.decode()
    if text and not text.endswith("\n"):
        yield "no newline at its end"
    if file.suffix in (".cc", ".h", ".py") and text.count("\n") > MAX_LINES:
        yield f"{text.count(chr(10))} lines, more than {MAX_LINES}"
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip() and file.suffix != ".md":
            yield f"{number}: space at the end of the line"
        if PLAIN_PATHS.search(line) and file.name != pathlib.Path(__file__).name:
            yield f"{number}: a path of one machine: {line.strip()}"
        for host in ADDRESS.findall(line):
            if host not in HOSTS:
                yield f"{number}: an address of a host not on the list: {host}"


def main():
    errors = [
        f"{file.relative_to(ROOT)}: {problem}"
        for file in tracked()
        if file.name != "LICENSE"
        for problem in problems(file)
    ]
    for error in errors:
        print(error)
    return bool(errors)


sys.exit(main())
