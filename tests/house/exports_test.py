"""A shared library exports what its headers declare and nothing else. usage: exports_test.py NM LIBRARY HEADER..."""

import pathlib
import re
import subprocess
import sys

nm, library, *headers = sys.argv[1:]
# Classes and functions that KINEOGRAPH_API or KINEOGRAPH_C_API marks.
CLASS = re.compile(r"^(?:class|struct) KINEOGRAPH_API (\w+)", re.M)
FUNCTION = re.compile(r"^KINEOGRAPH_(?:C_)?API\s+[\w:<>,*&\s]+?[\s*&](\w+)\(", re.M)
# The class, or the function, that a demangled name of the namespace is of.
DEMANGLED = re.compile(r"(?:typeinfo (?:name )?for |vtable for )?(?:kineograph::)?(\w+)(.*)", re.S)

text = "".join(pathlib.Path(header).read_text() for header in headers)
classes, functions = set(CLASS.findall(text)), set(FUNCTION.findall(text))
listing = subprocess.run([nm, "-D", "-C", "--defined-only", library], check=True, capture_output=True, text=True).stdout
exported = [line.split(maxsplit=2)[2].split("@")[0] for line in listing.splitlines() if line.strip()]
assert len(functions) > 10, functions

errors, seen = [], set()
for symbol in exported:
    name, rest = DEMANGLED.fullmatch(symbol).groups()
    # Checkpoint::Impl and its like are the library's own.
    if name not in classes | functions or re.match(r"::Impl\b", rest):
        errors.append(f"exported and not declared: {symbol}")
    seen.add(name)
# A class may be inline all through.
errors += [f"declared and not exported: {name}" for name in sorted(functions - seen)]
print(f"{len(exported)} symbols of {len(functions)} functions and {len(classes)} classes", *errors, sep="\n")
sys.exit(bool(errors))
