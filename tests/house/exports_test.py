"""A shared library exports what its headers declare and nothing else.

usage: exports_test.py NM LIBRARY ARCHIVE HEADER...: ARCHIVE is the same library as a static one, which tells what the
headers declare and no mark exports; "" where there is none.
"""

import pathlib
import re
import subprocess
import sys

nm, library, archive, *headers = sys.argv[1:]
MARK = r"KINEOGRAPH_(?:C_)?API"
# Classes and functions that are marked, and all of them.
MARKED_CLASS = re.compile(rf"^(?:class|struct) {MARK} (\w+)", re.M)
MARKED_FUNCTION = re.compile(rf"^{MARK}\s+[\w:<>,*&\s]+?[\s*&](\w+)\(", re.M)
CLASS = re.compile(rf"^(?:class|struct) (?:{MARK} )?(\w+)[^;]*?{{", re.M)
FUNCTION = re.compile(r"^[A-Za-z][\w:<>,*&\s]*?[\s*&](\w+)\(", re.M)
# The class, or the function, that a demangled name of the namespace is of.
DEMANGLED = re.compile(r"(?:typeinfo (?:name )?for |vtable for )?(?:kineograph::)?(\w+)(.*)", re.S)


def symbols(file, *options):
    command = [nm, "-C", "--defined-only", *options, file]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [line.split(maxsplit=2) for line in listing.splitlines() if re.match(r"[0-9a-f]+ ", line)]
    return {name.split("@")[0]: kind for _, kind, name in lines}


def local(rest):
    return re.match(r"::Impl\b", rest)  # Checkpoint::Impl and its like are the library's own


text = "".join(pathlib.Path(header).read_text() for header in headers)
classes, functions = set(MARKED_CLASS.findall(text)), set(MARKED_FUNCTION.findall(text))
exported = symbols(library, "-D")
assert len(functions) > 10, functions

errors, seen = [], set()
for symbol in exported:
    name, rest = DEMANGLED.fullmatch(symbol).groups()
    if name not in classes | functions or local(rest):
        errors.append(f"exported and not declared: {symbol}")
    seen.add(name)
# A class may be inline all through.
errors += [f"declared and not exported: {name}" for name in sorted(functions - seen)]
if archive:
    declared = set(CLASS.findall(text)) | set(FUNCTION.findall(text))
    assert declared >= classes | functions, (classes | functions) - declared
    for symbol, kind in symbols(archive).items():
        # Inline functions are their callers'; types that are thrown or inherited are to be one in all of a program.
        function = re.match(r"kineograph::(\w+)(.*)", symbol, re.S) if kind == "T" else None
        found = function or re.fullmatch(r"typeinfo for kineograph::(\w+)()", symbol)
        meant = found and found[1] in declared and not local(found[2])
        if meant and symbol not in exported:
            errors.append(f"declared and not marked with KINEOGRAPH_API: {symbol}")
print(f"{len(exported)} symbols of {len(functions)} functions and {len(classes)} classes", *errors, sep="\n")
sys.exit(bool(errors))
