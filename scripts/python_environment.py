"""Makes .venv and keeps it right, so that a bare Python is all that scripts/run and scripts/test ask for.

`python3 scripts/python_environment.py local` installs requirements-local.txt where that hasn't been done, and prints
the environment's Python. Uses the standard library only, and nothing newer than Python 3.8, so as to be able to say
that a Python is too old.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 11), (3, 13)
SUPPORTED = "Python {}.{} to {}.{}".format(*OLDEST, *NEWEST)


def main(arguments: list[str]) -> int:
    """`local` or `dev`: which requirements; and optionally the folder of the environment. Returns an exit code."""
    use_supported_python()
    requirements = ROOT / f"requirements-{arguments[0]}.txt"
    folder = Path(arguments[1] if len(arguments) > 1 else ROOT / ".venv").resolve()
    try:
        print(ensure(folder, requirements))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        say(f"The environment in {folder} can't be made: {error}.")
        return 1
    return 0


def say(message: str) -> None:
    """Progress and errors go to stderr: stdout is the path."""
    print(message, file=sys.stderr, flush=True)


def use_supported_python() -> None:
    """Goes on under another Python of this machine where this one isn't supported; ends where there is none."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return
    names = [f"python{OLDEST[0]}.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    other = next(filter(None, map(shutil.which, names)), None)
    if other is None:
        mine = "{}.{}".format(*sys.version_info[:2])
        sys.exit(f"{SUPPORTED} is needed; `python3` is {mine}. Install one of them, then try again.")
    os.execv(other, [other, *sys.argv])


def ensure(folder: Path, requirements: Path) -> Path:
    """The Python of the environment in `folder`, with the requirements installed; ends where that can't be."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another installation to end …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        python = folder / "bin" / "python"
        if not is_right(folder):
            create(folder)
        install(folder, requirements)
        return python


def is_right(folder: Path) -> bool:
    """Whether the environment was made here by this version of Python: it doesn't work once moved or copied."""
    stamp = folder / "made-by"
    return stamp.exists() and stamp.read_text() == identity(folder) and runs(folder / "bin" / "python")


def identity(folder: Path) -> str:
    """What an environment depends on: its place, and its Python's version."""
    return "{} {}.{}".format(folder, *sys.version_info[:2])


def runs(python: Path) -> bool:
    """Whether this Python starts and is of the same version as ours."""
    asked = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.stdout.split() == [str(part) for part in sys.version_info[:2]]


def create(folder: Path) -> None:
    """Makes an empty environment, in place of one that can't be used."""
    if folder.exists():
        if not (folder / "pyvenv.cfg").exists() and any(folder.iterdir()):
            sys.exit(f"{folder} is no virtual environment. Move it out of the way, then try again.")
        say(f"Making {folder.name} anew: it was not made here by this Python.")
        shutil.rmtree(folder)
    try:
        import ensurepip  # noqa: F401, PLC0415 - Debian leaves it out of its Python
        import venv  # noqa: PLC0415
    except ImportError:
        version = "{}.{}".format(*sys.version_info[:2])
        sys.exit(f"This Python can't make virtual environments. On Debian or Ubuntu: apt install python{version}-venv")
    try:
        venv.create(folder, with_pip=True, symlinks=True)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(folder, ignore_errors=True)
        sys.exit(f"The virtual environment in {folder} could not be made:\n{said_last(error.output)}")
    (folder / "made-by").write_text(identity(folder))


def install(folder: Path, requirements: Path) -> None:
    """Installs the requirements, unless these very ones have been installed before."""
    stamp = folder / f"installed-{requirements.stem}"
    if stamp.exists() and stamp.read_text() == digest(requirements):
        return
    started = time.monotonic()
    say(f"Installing {requirements.name} into {folder.name} (about a minute the first time) …")
    done = subprocess.run(
        [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input",
         "install", "--quiet", "--requirement", str(requirements)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(
            f"pip could not install {requirements.name}:\n{said_last(done.stdout)}\n"
            "A package index must be reachable: check the network, or name a mirror with PIP_INDEX_URL; then try again."
        )
    for file in (requirements, *included_by(requirements)):
        (folder / f"installed-{file.stem}").write_text(digest(file))
    say(f"Installed in {time.monotonic() - started:.0f} s.")


def digest(requirements: Path) -> str:
    """A digest of the requirements and of all that they include."""
    contents = [file.read_bytes() for file in (requirements, *included_by(requirements))]
    return hashlib.sha256(b"\0".join(contents)).hexdigest()


def included_by(requirements: Path) -> list[Path]:
    """The files that these requirements include by `-r`, and those that they include in turn."""
    lines = [line.split() for line in requirements.read_text().splitlines() if line.startswith("-r ")]
    direct = [requirements.parent / line[1] for line in lines]
    return [file for path in direct for file in (path, *included_by(path))]


def said_last(output: str | bytes | None) -> str:
    """The last lines of a program's output, indented."""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-8:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
