"""Types a line with a TAB at a shell's prompt, and prints what the shell has made of it.

complete.py SETUP LINE SHELL [ARGUMENT...]: SETUP is a line that the shell runs first. The completed line is not run: it becomes the
arguments of `echo`, by going to its beginning and its end as one would.
"""

import os
import pty
import select
import sys
import tempfile
import time

PATIENCE = 60


def main(setup, line, *shell):
    with tempfile.TemporaryDirectory() as folder:
        ready, out = os.path.join(folder, "ready"), os.path.join(folder, "out")
        child, terminal = pty.fork()
        if child == 0:
            os.environ.update(TERM="xterm", HOME=folder, PS1="$ ")
            os.execvp(shell[0], shell)
        seen = bytearray()

        def wait_for(path):
            end = time.monotonic() + PATIENCE
            while not (os.path.exists(path) and os.path.getsize(path)):
                if time.monotonic() > end:
                    sys.exit(f"waited in vain for {os.path.basename(path)}; on the terminal: {bytes(seen)!r}")
                if select.select([terminal], [], [], 0.02)[0]:
                    try:
                        seen.extend(os.read(terminal, 4096))
                    except OSError:
                        sys.exit(f"{shell[0]} has ended: {bytes(seen)!r}")

        os.write(terminal, f"{setup}; echo ready > {ready}\n".encode())
        wait_for(ready)
        os.write(terminal, line.encode() + b"\t\x01echo \x05 > " + out.encode() + b"\n")
        wait_for(out)
        with open(out) as file:
            print(" ".join(file.read().split()))
        os.kill(child, 9)
        os.waitpid(child, 0)


main(*sys.argv[1:])
