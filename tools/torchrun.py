"""tools/torchrun.py PROCESSES TOOL.py [ARGUMENTS]: runs a tool in several processes a node.

Environment: PORT (of the master; one node finds a free one), for several nodes NNODES, NODE_RANK
and MASTER_ADDR, and RESTARTS: how often processes of which one died are started anew; a training
then goes on from its last checkpoint.

SIGTERM and SIGUSR1 are passed on, with 30 seconds to save; the status is 128 + the signal.
"""

import os
import signal
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def where() -> list[str]:
    """How the processes find each other."""
    port = os.environ.get("PORT")
    if int(os.environ.get("NNODES", 1)) > 1:
        missing = [name for name in ("NODE_RANK", "MASTER_ADDR") if not os.environ.get(name)]
        if missing:
            sys.exit(f"error: with NNODES, set {' and '.join(missing)} too.")
        nodes = [f"--nnodes={os.environ['NNODES']}", f"--node-rank={os.environ['NODE_RANK']}"]
        master = os.environ["MASTER_ADDR"]
        return [*nodes, f"--master-addr={master}", f"--master-port={port or 29500}"]
    if port:
        address = os.environ.get("MASTER_ADDR", "127.0.0.1")
        return [f"--master-addr={address}", f"--master-port={port}"]
    return ["--standalone"]


def main() -> None:
    """Runs the tool."""
    processes, tool, *arguments = sys.argv[1:]
    asked = []

    def as_term(number: int, frame: object) -> None:  # torch's agent knows SIGTERM alone
        asked.append(number)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGUSR1, as_term)
    options = [*where(), f"--nproc-per-node={processes}"]
    options += [f"--max-restarts={os.environ.get('RESTARTS') or 0}"]
    file = Path(__file__).with_name(tool)
    try:
        run.main([*options, str(file), *arguments, "--launcher", "pytorch"])
    except SignalException as error:
        sys.exit(128 + (asked[0] if asked else error.sigval))
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        status = error.get_first_failure()[1].exitcode
        sys.exit(status if status > 128 else 1)


if __name__ == "__main__":
    main()
