"""A shared library exports what its headers declare and nothing else. usage: exports_test.py NM LIBRARY HEADER..."""

import pathlib
import re
import subprocess
import sys

nm, library, *headers = sys.argv[1:]
# Functions and classes that KINEOGRAPH_API or KINEOGRAPH_C_API marks.
MARKED = re.compile(r"KINEOGRAPH_(?:C_)?API\s+(?:[\w:<>,*& ]*?[\s*&]+)?(\w+)\s*(?:\(|:|\{)")
# The class, or the function, that a demangled name of the namespace is of.
DEMANGLED = re.compile(r"(?:typeinfo (?:name )?for |vtable for )?(?:kineograph::)?(\w+)(.*)", re.S)

declared = {name for header in headers for name in MARKED.findall(pathlib.Path(header).read_text())}
listing = subprocess.run([nm, "-D", "-C", "--defined-only", library], check=True, capture_output=True, text=True).stdout
exported = [line.split(maxsplit=2)[2].split("@")[0] for line in listing.splitlines() if line.strip()]
assert len(declared) > 10, declared

errors, seen = [], set()
for symbol in exported:
    name, rest = DEMANGLED.fullmatch(symbol).groups()
    # A class of a class, such as Checkpoint::Impl, is the library's own.
    if name not in declared or re.match(r"::[A-Z]\w*(?<!^::)", rest) and not rest.startswith(f"::{name}("):
        errors.append(f"exported and not declared: {symbol}")
    seen.add(name)
errors += [f"declared and not exported: {name}" for name in sorted(declared - seen)]
print(f"{len(exported)} symbols of {len(declared)} functions and classes", *errors, sep="\n")
sys.exit(bool(errors))
