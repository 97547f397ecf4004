"""`python -m ghnfast` is the command `ghnfast`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
