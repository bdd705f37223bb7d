"""A process that imports the command line once and runs command lines in children, some of which are killed.

Reads a line of JSON per run, {"arguments": [...], "kill": null | ["event", N] | ["seconds", T]}; answers each with
[exit code or minus the signal, events counted]. An event is a step of a write; at the N-th a child kills itself, where
it can in the middle of the data.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

import command_line  # noqa: F401  the models of the tests
import torch

import spade_ext.files
import spade_xai.tuning.score_log
from spade_xai.cli import main

# What commands import where they use it: here once, and not in each child.
for library in ("captum.attr", "jinja2", "kornia.augmentation", "matplotlib.pyplot"):
    importlib.import_module(library)
for entry in ("evaluate", "explain", "trace", "tune"):
    importlib.import_module(f"spade_xai.commands.{entry}")


class Killer:
    """Counts the steps of writes, and kills this process at one of them."""

    def __init__(self, last):
        self.last, self.count = last, 0

    def step(self, half=None):
        """One step; half writes a part of what was to be written."""
        self.count += 1
        if self.count == self.last:
            if half is not None:
                half()
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self):
        """Have every write of the package go through steps."""
        write, save, replace = Path.write_bytes, spade_ext.files.save_file, Path.replace
        synchronize, line = spade_ext.files._synchronize, spade_xai.tuning.score_log.ScoreLog._line

        def write_bytes(path, data):
            self.step(lambda: write(path, data[: len(data) // 2]))
            return write(path, data)

        def save_file(tensors, path, metadata):
            def half():
                save(tensors, path, metadata)
                os.truncate(path, path.stat().st_size // 2)

            self.step(half)
            save(tensors, path, metadata)

        def replaced(path, target):
            self.step()
            result = replace(path, target)
            self.step()
            return result

        def synchronized(path):
            self.step()
            synchronize(path)

        def score_line(log, row):
            text = line(log, row)

            def half():
                with log.path.open("ab") as file:
                    file.write(text[: len(text) // 2])

            if (row[0], row[1], row[2]) in log.scores and sys._getframe(1).f_code.co_name == "add":
                self.step(half)
            return text

        Path.write_bytes, Path.replace = write_bytes, replaced
        spade_ext.files.save_file, spade_ext.files._synchronize = save_file, synchronized
        spade_xai.tuning.score_log.ScoreLog._line = score_line


def child(arguments, kill, answer):
    """Run a command line; tell the events at the end."""
    killer = Killer(kill[1] if kill and kill[0] == "event" else 0)
    killer.install()
    if kill and kill[0] == "seconds":
        signal.setitimer(signal.ITIMER_REAL, kill[1])  # whose signal ends a process at once
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    code = 0
    try:
        main(arguments)
    except SystemExit as leave:
        code = leave.code or 0
    os.write(answer, str(killer.count).encode())
    os._exit(code)


def serve():
    """Answer each line of stdin."""
    torch.set_num_threads(1)
    for text in sys.stdin:
        run = json.loads(text)
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(read)
            child(run["arguments"], run["kill"], write)
        os.close(write)
        told = os.read(read, 100)
        os.close(read)
        _, status = os.waitpid(process, 0)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        print(json.dumps([code, int(told or 0)]), flush=True)


if __name__ == "__main__":
    serve()
