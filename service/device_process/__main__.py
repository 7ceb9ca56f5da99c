"""Run the device process: `python -m service.device_process CONTROL WORK`, two sockets."""

import signal
import sys

IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
"Signals to all processes of a service, which are for the one that serves: it ends this one."


def main() -> None:
    """Load checkpoints for a service and do its orders, until it ends."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    from service.device_process.worker import work  # imports torch, which takes seconds

    work(*map(int, sys.argv[1:]))


if __name__ == "__main__":
    main()
