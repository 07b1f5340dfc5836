"""Several processes of one run, as `torchrun` would start them, but forks of this one: nothing is imported again."""

import faulthandler
import os
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from winning_tickets.runs.errors import TicketsError

PATIENCE = 240  # seconds until something that hangs is killed; a busy machine is slow


@dataclass
class Ended:
    """How a process ended: the exit code (negative: by a signal), and what it printed."""

    code: int
    out: str
    err: str


class Launch:
    """Processes that run a function of their rank.

    Args:
        folder: for what they print.
        work: called with the rank in each; what it returns is lost. An error of ours becomes its exit code.
        count: how many.
    """

    def __init__(self, folder: Path, work, count=2):
        self.folder = folder / f"launch-{time.monotonic_ns()}"
        self.folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.pids = [self._start(rank, count, port, work) for rank in range(count)]

    def _start(self, rank, count, port, work):
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            for stream, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(self.folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT), stream)
            faulthandler.dump_traceback_later(PATIENCE - 20, file=2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            os.environ.update({name: str(value) for name, value in numbers.items()})
            os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads did not come along
            work(rank)
            code = 0
        except TicketsError as error:
            sys.stderr.write(f"{error}\n")
            code = error.exit_code
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def kill(self, number, ranks):
        """Send a signal to some of them."""
        for rank in ranks:
            os.kill(self.pids[rank], number)

    def wait(self):
        """How each ended, by rank."""
        codes, deadline = {}, time.monotonic() + PATIENCE
        while len(codes) < len(self.pids):
            for rank, pid in enumerate(self.pids):
                if rank not in codes and (found := os.waitpid(pid, os.WNOHANG))[0]:
                    codes[rank] = os.waitstatus_to_exitcode(found[1])
            left = [rank for rank in range(len(self.pids)) if rank not in codes]
            if time.monotonic() > deadline:
                self.kill(signal.SIGKILL, left)
                raise AssertionError(f"Processes {left} hang; ended: {codes}\n{self._printed('err')}")
            time.sleep(0.02)
        out, err = self._printed("out"), self._printed("err")
        return [Ended(codes[rank], out[rank], err[rank]) for rank in range(len(self.pids))]

    def _printed(self, name):
        return [(self.folder / f"{rank}.{name}").read_text() for rank in range(len(self.pids))]


def launched(folder, work, count=2):
    """Run to the end, where every process must succeed; what they printed."""
    ended = Launch(folder, work, count).wait()
    assert [one.code for one in ended] == [0] * count, "\n".join(one.err for one in ended)
    return ended
