"""Another process that holds a folder."""

import os
import signal
from contextlib import contextmanager, suppress

from winning_tickets.runs.locks import hold


@contextmanager
def held_by_another(folder, **how):
    """Hold a folder in a fork until the end of the block; yield its process id."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with hold(folder, **how):
                os.write(told, b"1")
                signal.pause()
        finally:
            os._exit(1)
    os.close(told)
    try:
        assert os.read(ready, 1)
        yield child
    finally:
        os.close(ready)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
