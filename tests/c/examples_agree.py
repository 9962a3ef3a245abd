"""The example in C and the one through ctypes print the same. usage: examples_agree.py C_EXAMPLE SCRIPT LIBRARY"""

import subprocess
import sys


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


in_c, by_ctypes = output(sys.argv[1]), output(sys.executable, sys.argv[2], sys.argv[3])
print(in_c, by_ctypes, sep="")
sys.exit(in_c != by_ctypes or "sample[0]" not in in_c)
