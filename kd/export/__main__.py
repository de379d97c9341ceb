"""`python -m kd.export DIRECTORY PROBES` prints how far an export is from recorded outputs."""

import sys

from kd.export.verification import largest_difference

if __name__ == "__main__":
    print(largest_difference(*sys.argv[1:]))
