"""A shell for tests, in which `rsdata`, `rsclip` and `python` cost a fork and not a start.

A server imports both packages once. The commands on the shell's PATH hand it their words, folder, environment
and open files; it forks a child that does what the real command would, and hands back its exit code.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

COMMANDS = ("rsdata", "rsclip", "python")
IMPORTED = (
    *("rsdata.cli", "rsdata.convert", "rsdata.dedup", "rsdata.samples", "rsdata.report", "rsdata.view"),
    *("rsclip.cli", "rsclip.evaluate", "rsclip.train", "open_clip", "torch.utils.tensorboard"),
    *("matplotlib.font_manager", "nltk.translate.bleu_score"),
)
CLIENT = """#!{python} -ISB
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
socket.send_fds(server, [b"."], [0, 1, 2])
server.sendall(json.dumps([{command!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
server.shutdown(socket.SHUT_WR)
code = server.recv(1)
sys.exit(code[0] if code else 137)
"""


def run(script: str, home: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a bash script in `folder`, up to the first command that fails; stdout holds stderr too."""
    (home / "script.sh").write_text(script, encoding="utf-8")
    words = ["bash", "-eu", str(home / "script.sh")]
    held = {**os.environ, "PATH": f"{_commands()}{os.pathsep}{os.environ['PATH']}", "HOME": str(home)}
    held.pop("XDG_CACHE_HOME", None)
    return subprocess.run(
        words,
        cwd=folder,
        env={**held, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@functools.cache
def _commands() -> Path:
    """Start the server; the folder of the commands that reach it."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "server"
    words = [sys.executable, __file__, str(path)]
    server = subprocess.Popen(words, stdin=subprocess.DEVNULL)

    def stop() -> None:
        server.kill()
        server.wait()
        folder.cleanup()

    atexit.register(stop)
    for command in COMMANDS:
        client = Path(folder.name) / command
        client.write_text(CLIENT.format(python=sys.executable, path=str(path), command=command))
        client.chmod(0o755)
    while not path.exists():
        assert server.poll() is None, "the server of the shell did not start"
        time.sleep(0.05)
    return Path(folder.name)


def _serve(path: Path) -> None:
    for module in IMPORTED:
        importlib.import_module(module)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen(16)
    path.with_name(f"{path.name}.new").rename(path)
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _answer(client)
        client.close()
        while _reaped():
            pass


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _answer(client: socket.socket) -> None:
    code = 1
    try:
        _, files, *_ = socket.recv_fds(client, 1, 3)
        text = b"".join(iter(lambda: client.recv(1 << 16), b""))
        command, words, folder, environment = json.loads(text)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [command, *words]
        sys.path[0] = ""
        code = _done(command, words)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    client.sendall(bytes([code]))
    os._exit(code)


def _done(command: str, words: list[str]) -> int:
    try:
        if command == "rsdata":
            from rsdata.cli import run as main

            main()
        elif command == "rsclip":
            from rsclip.cli import main as group

            group()
        else:
            _python(words)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    return 0


def _python(words: list[str]) -> None:
    """What `python` does with a program on stdin, after -c or -m, or in a file."""
    if words[:1] in (["-"], ["-c"]):
        source = sys.stdin.read() if words[0] == "-" else words[1]
        exec(compile(source, "<python>", "exec"), {"__name__": "__main__"})
    elif words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path[0] = str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
