"""The command line, a file each command: `ghnfast predict`, `graph`, `train` and so on (`ghnfast --help`).

Results go to stdout, notices and errors to stderr. What a user can put right (a wrong name, a folder that is not there,
any `GhnfastError`) is one line and the exit code 2; what should not happen keeps its traceback.
"""

from .program import main

__all__ = ["main"]
