"""A run of several processes: how they find each other."""

import jax

from jaxgmm.tools.errors import UserError

_HEARTBEAT = 30  # seconds without a sign of life after which a process is given up, and the others with it


def join(coordinator: str | None, processes: int | None, process: int | None) -> int:
    """Meet the other processes of the run, and return which this one is. To be called before anything is computed.

    Args:
        coordinator: host and port of process 0; None, as SLURM, Open MPI, Kubernetes or a TPU pod tells.
        processes: how many there are.
        process: which this one is.

    Raises:
        ValueError: nobody says who the others are, or they can't be reached.
    """
    given = [coordinator, processes, process]
    if any(value is None for value in given) and any(value is not None for value in given):
        raise UserError("--coordinator, --processes and --process go together: give all of them, or none")
    if processes is not None and process is not None and process >= processes:
        raise UserError(f"--process is {process}, but there are {processes}, counted from 0")
    try:
        jax.distributed.initialize(coordinator, processes, process, heartbeat_timeout_seconds=_HEARTBEAT)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes of the run can't find each other ({' '.join(str(error).split())[:300]}): give --coordinator "
            "HOST:PORT, --processes N and --process I, or start them by SLURM, Open MPI or Kubernetes"
        ) from None
    return jax.process_index()
