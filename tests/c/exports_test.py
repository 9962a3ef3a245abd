"""The C library exports what its header declares and nothing else. usage: exports_test.py NM LIBRARY HEADER"""

import pathlib
import re
import subprocess
import sys

nm, library, header = sys.argv[1:]
listing = subprocess.run([nm, "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
exported = {line.split()[-1].split("@")[0] for line in listing.splitlines() if line.strip()}
declared = set(re.findall(r"KINEOGRAPH_C_API [\w ]+?\**\s*(kineograph_\w+)\(", pathlib.Path(header).read_text()))
assert len(declared) > 10, declared
for name in sorted(exported - declared):
    print("exported and not declared:", name)
for name in sorted(declared - exported):
    print("declared and not exported:", name)
sys.exit(exported != declared)
