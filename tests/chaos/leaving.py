"""An application that is told to end once more when all that is left to do is to exit."""

import atexit
import os
import signal

from rt import App

app = App()

for number in (signal.SIGTERM, signal.SIGINT):
    atexit.register(os.kill, os.getpid(), number)
