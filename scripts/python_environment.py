"""Makes and updates .venv, so that scripts/run and scripts/test need nothing but a bare Python.

`python3 scripts/python_environment.py local` installs requirements-local.txt unless that has been done, and prints the
path of the environment's Python. Uses the standard library only, and nothing newer than Python 3.8, to be able to
report that a Python is too old.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 11), (3, 14)  # the versions that the product has been tested with
SUPPORTED = "Python {}.{} to {}.{}".format(*OLDEST, *NEWEST)


def main(arguments: list[str]) -> int:
    """Takes `local` or `dev`, and optionally the folder of the environment. Returns an exit code."""
    use_supported_python()
    requirements = ROOT / f"requirements-{arguments[0]}.txt"
    folder = Path(arguments[1] if len(arguments) > 1 else ROOT / ".venv").resolve()
    try:
        print(ensure(folder, requirements))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        report(f"The environment in {folder} can't be made: {error}.")
        return 1
    return 0


def report(message: str) -> None:
    """Prints progress or an error to stderr: stdout is for the path."""
    print(message, file=sys.stderr, flush=True)


def use_supported_python() -> None:
    """Restarts this under a supported Python of this machine where the current one isn't supported.

    Where there is none, a newer Python gets a warning, and an older one ends the program.
    """
    current = sys.version_info[:2]
    if OLDEST <= current <= NEWEST:
        return
    names = [f"python{OLDEST[0]}.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    other = next(filter(None, map(shutil.which, names)), None)
    version = "{}.{}".format(*current)
    if other is not None:
        os.execv(other, [other, *sys.argv])
    if current > NEWEST:
        report(f"Warning: this is tested with {SUPPORTED}; `python3` is {version}. If it fails, use a tested one.")
        return
    sys.exit(f"{SUPPORTED} is needed; `python3` is {version}. Install one of them, then try again.")


def ensure(folder: Path, requirements: Path) -> Path:
    """Returns the Python of the environment in `folder`, made and filled with the requirements where needed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("Waiting for another installation to end …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_usable(folder):
            create(folder)
        install(folder, requirements)
        return folder / "bin" / "python"


def is_usable(folder: Path) -> bool:
    """True if the environment was made here by this version of Python: it doesn't work once moved or copied."""
    stamp = folder / "made-by"
    return stamp.exists() and stamp.read_text() == identity(folder) and runs(folder / "bin" / "python")


def identity(folder: Path) -> str:
    """Returns the folder and the version of Python, which an environment depends on."""
    return "{} {}.{}".format(folder, *sys.version_info[:2])


def runs(python: Path) -> bool:
    """True if this Python starts and has the version of the current one."""
    program = "import sys; print(*sys.version_info[:2])"
    try:
        result = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return result.stdout.split() == [str(part) for part in sys.version_info[:2]]


def create(folder: Path) -> None:
    """Makes an empty environment, in place of one that can't be used."""
    if folder.exists():
        if not (folder / "pyvenv.cfg").exists() and any(folder.iterdir()):
            sys.exit(f"{folder} is no virtual environment. Move it out of the way, then try again.")
        report(f"Making {folder.name} anew: it was not made here by this Python.")
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
        sys.exit(f"The virtual environment in {folder} could not be made:\n{last_lines(error.output)}")
    (folder / "made-by").write_text(identity(folder))


def install(folder: Path, requirements: Path) -> None:
    """Installs the requirements, unless the environment has all of them."""
    stamp = folder / "installed"
    installed = set(stamp.read_text().splitlines()) if stamp.exists() else set()
    pins = locked(requirements)
    if stamp.exists() and pins <= installed:
        return
    started = time.monotonic()
    report(f"Installing {requirements.name} into {folder.name} (about a minute the first time) …")
    result = subprocess.run(
        [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input",
         "install", "--quiet", "--require-hashes", "--requirement", str(requirements)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        sys.exit(
            f"pip could not install {requirements.name}:\n{last_lines(result.stdout)}\n"
            "A package index must be reachable: check the network, or name a mirror with PIP_INDEX_URL; then try again."
        )
    names = {package(pin) for pin in pins}
    remaining = {pin for pin in installed if package(pin) not in names}
    stamp.write_text("".join(f"{pin}\n" for pin in sorted(remaining | pins)))
    report(f"Installed in {time.monotonic() - started:.0f} s.")


def locked(requirements: Path) -> set[str]:
    """Returns the requirements, such as `django==5.2.19`, without their hashes and comments."""
    lines = (line.split("#")[0].rstrip(" \\") for line in requirements.read_text().splitlines())
    return {line for line in lines if line and not line.lstrip().startswith("--hash")}


def package(pin: str) -> str:
    """Returns the name of the package in a requirement."""
    return pin.split("==", maxsplit=1)[0]


def last_lines(output: str | bytes | None) -> str:
    """Returns the last lines of a program's output, indented."""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-8:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
