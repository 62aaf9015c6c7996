"""Look into a built wheel, and with --install use it in a fresh environment.

The wheel must hold every module of src/ and every file of models/ and sweeps/ (as scaleband/_models, _sweeps). The
fresh environment gets the wheel and what the wheel itself asks for, in the locked versions, and nothing of the
development tools: a module that imports something undeclared fails there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

IMPORT_ALL = """
import importlib, pkgutil, scaleband
EXTRAS = {"torch"}  # the reference trainer's modules need the extra, everything else does not
for module in pkgutil.walk_packages(scaleband.__path__, "scaleband."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
print("imported scaleband", scaleband.__version__, "from", scaleband.__file__)
"""


def files_under(folder: Path) -> list[Path]:
    """Files of a folder that belong to the product, relative to it."""
    relative = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in relative if not any(part.startswith((".", "__py")) for part in path.parts))


def problems_of(wheel: Path) -> list[str]:
    """What the wheel lacks or should not hold, one sentence each."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    models = files_under(ROOT / "models")
    wanted = {f"scaleband/_models/{path.as_posix()}" for path in models}
    wanted |= {f"scaleband/_sweeps/{path.as_posix()}" for path in files_under(ROOT / "sweeps")}
    wanted |= {path.as_posix() for path in files_under(ROOT / "src") if path.suffix == ".py"}
    problems = [f"{name} is missing from the wheel" for name in sorted(wanted - names)]
    if not any(path.suffix == ".nc" for path in models):
        problems.append("models/ holds no fit (*.nc), so the wheel ships no model")
    if not any(name.endswith("licenses/LICENSE") for name in names):
        problems.append("the licence is missing from the wheel")
    problems += [
        f"{name} does not belong in the wheel"
        for name in sorted(names)
        if not name.startswith(("scaleband/", "scaleband-"))
    ]
    return problems


def use(wheel: Path) -> None:
    """Install the wheel in a fresh environment and use it there, away from the clone."""
    locked = [
        line.removesuffix(" \\")  # name, version and marker, without the hashes
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line and not line.startswith((" ", "#"))
    ]
    with tempfile.TemporaryDirectory(prefix="scaleband-wheel-") as folder:
        place = Path(folder)
        constraints = place / "constraints.txt"
        constraints.write_text("\n".join(locked) + "\n")
        venv.create(place / "venv", with_pip=True)
        python = place / "venv/bin/python"
        install = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*install, "--only-binary", ":all:", "-c", constraints, wheel], check=True)
        subprocess.run([python, "-I", "-c", IMPORT_ALL], check=True, cwd=place)
        for verb in ("models", "data"):
            subprocess.run([place / "venv/bin/scaleband", verb, "list"], check=True, cwd=place)
        count = "from scaleband.runs import own_sweep; print(len(own_sweep().frame), 'runs are shipped')"
        subprocess.run([python, "-I", "-c", count], check=True, cwd=place)


def main() -> int:
    """Check one wheel; 1 if anything is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--install", action="store_true", help="install and use it in a fresh environment")
    arguments = parser.parse_args()
    wheel = arguments.wheel.resolve()
    problems = problems_of(wheel)
    for problem in problems:
        print(f"{wheel.name}: {problem}", file=sys.stderr)
    if problems:
        return 1
    print(f"{wheel.name}: complete, {wheel.stat().st_size / 1e6:.1f} MB")
    if arguments.install:
        try:
            use(wheel)
        except subprocess.CalledProcessError as error:
            print(f"{wheel.name}: failed in a fresh environment: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
