"""Starts drivers that a test kills, one for each line of JSON that it reads; fast, by forking after imports.

    {"last": 3, "repairing": false, "log": "/tmp/log", "arguments": ["--sync=off"]}

Prints the process ID.
"""

import json
import os
import signal
import sys

from e2e import crash_driver


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that no zombies stay
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        null = os.open(os.devnull, os.O_RDWR)
        for number, file in enumerate((null, null, log)):
            os.dup2(file, number)
        sys.argv = ["ovn-docker-overlay-driver", *order["arguments"]]
        crash_driver.run(order["last"], crash_driver.REPAIRS if order["repairing"] else crash_driver.CALLS)
        return


if __name__ == "__main__":
    main()
