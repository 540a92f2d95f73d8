"""The console script and `python -m stackelberg`: Ctrl-C is quiet from the first moment on."""

import os
import signal
import sys
from typing import Any


def main() -> int:
    """Run the command line; an interrupt while packages are imported just ends the process."""
    signal.signal(signal.SIGINT, _leave)
    from stackelberg.cli import main as command_line

    try:
        status = command_line()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has had enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _leave(*_: Any) -> None:
    os.write(2, b"stackelberg: interrupted before anything was written\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
