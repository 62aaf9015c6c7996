"""The set-up on a fresh machine: which Python is taken, what is said if none will do, what the lock holds."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

# Stands in for an interpreter: the real one, told to be another version or to lack a module, runs the
# finder's probe (the third word of the command line).
GOOD = "sys._base_executable = {place!r}"
OLD = "sys.version_info = (3, 11, 7, 'final', 0)"
BARE = "sys.version_info = (3, 12, 3, 'final', 0); sys.modules['ensurepip'] = None"
DEAD_SHIM = "#!/bin/sh\necho 'pyenv: command not found; it exists in these versions: 3.12.1' >&2\nexit 127\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def pretend(path: Path, lie: str) -> Path:
    code = f"import sys; {lie.format(place=str(path))}; exec(sys.argv[1])"
    return write(path, f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$3"\n')


@pytest.fixture
def find(repo_root: Path, tmp_path: Path):
    """Run the finder with only bin/ and shims/ of a temporary folder on PATH."""

    def run(**environment: str | Path) -> tuple[int, str, str]:
        (tmp_path / "home").mkdir(exist_ok=True)
        done = subprocess.run(
            ["/bin/sh", repo_root / "tools/find-python.sh"],
            env={"PATH": f"{tmp_path}/bin:{tmp_path}/shims", "HOME": f"{tmp_path}/home"}
            | {name: str(value) for name, value in environment.items()},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    return run


def test_newer_python_is_found_behind_an_old_default(find, tmp_path: Path) -> None:
    pretend(tmp_path / "bin/python3", OLD)
    newer = pretend(tmp_path / "bin/python3.13", GOOD)
    assert find() == (0, str(newer), "")


def test_default_python_is_taken_when_it_is_new_enough(find, tmp_path: Path) -> None:
    default = pretend(tmp_path / "bin/python3", GOOD)
    assert find() == (0, str(default), "")


def test_pyenv_is_found_from_its_shims_alone(find, tmp_path: Path) -> None:
    write(tmp_path / "shims/python3.12", DEAD_SHIM)
    pretend(tmp_path / "shims/python3", OLD)
    pretend(tmp_path / "versions/3.11.7/bin/python3", OLD)
    newer = pretend(tmp_path / "versions/3.12.1/bin/python3", GOOD)
    assert find() == (0, str(newer), "")


@pytest.mark.parametrize("how", ["home", "variable", "command"])
def test_pyenv_is_found_by_its_folder(find, tmp_path: Path, how: str) -> None:
    root = tmp_path / ("home/.pyenv" if how == "home" else "elsewhere")
    newer = pretend(root / "versions/3.13.0/bin/python3", GOOD)
    if how == "command":
        write(tmp_path / "bin/pyenv", f"#!/bin/sh\necho '{root}'\n")
    assert find(**({"PYENV_ROOT": root} if how == "variable" else {})) == (0, str(newer), "")


def test_uv_is_asked_but_never_told_to_download(find, tmp_path: Path) -> None:
    newer = pretend(tmp_path / "uv-python/bin/python3", GOOD)
    answer = f"case \"$*\" in *--no-python-downloads*) echo '{newer}' ;; *) exit 1 ;; esac"
    write(tmp_path / "bin/uv", f"#!/bin/sh\n{answer}\n")
    assert find() == (0, str(newer), "")


def test_a_named_python_wins(find, tmp_path: Path) -> None:
    pretend(tmp_path / "bin/python3", GOOD)
    named = pretend(tmp_path / "mine/python", GOOD)
    assert find(PYTHON=named) == (0, str(named), "")


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        (OLD, "PYTHON={named} is Python 3.11.7; scaleband needs CPython 3.12 or newer"),
        (BARE, "{named} is Python 3.12.3 but has no module 'ensurepip'"),
        (None, "PYTHON={named} cannot be run"),
    ],
    ids=["old", "bare", "absent"],
)
def test_a_named_python_that_will_not_do(find, tmp_path: Path, lie: str | None, sentence: str) -> None:
    pretend(tmp_path / "bin/python3", GOOD)
    named = tmp_path / "mine/python"
    if lie:
        pretend(named, lie)
    code, out, error = find(PYTHON=named)
    assert (code, out) == (1, "")
    assert sentence.format(named=named) in error


def test_only_an_old_python_gives_one_sentence_with_a_remedy(find, tmp_path: Path) -> None:
    pretend(tmp_path / "bin/python3", OLD)
    code, out, error = find()
    assert (code, out) == (1, "")
    assert error.count("\n") == 0
    assert "no Python 3.12 or newer found (python3 is Python 3.11.7)" in error
    assert "make test PYTHON=" in error


def test_no_python_at_all(find) -> None:
    code, out, error = find()
    assert (code, out) == (1, "")
    assert "no Python found" in error


def test_a_python_without_venv_names_the_package_to_install(find, tmp_path: Path) -> None:
    pretend(tmp_path / "bin/python3.12", BARE)
    code, _, error = find()
    assert code == 1
    assert "apt install python3.12-venv" in error


def test_a_python_without_venv_is_passed_over_for_a_whole_one(find, tmp_path: Path) -> None:
    pretend(tmp_path / "bin/python3.12", BARE)
    whole = pretend(tmp_path / "bin/python3.13", GOOD)
    assert find() == (0, str(whole), "")


def test_old_pythons_are_refused_by_pip_too(repo_root: Path) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.12"
    assert "sys.version_info < (3, 12)" in (repo_root / "tools/find-python.sh").read_text()
    assert "sys.version_info < (3, 12)" in (repo_root / "tools/setup.sh").read_text()


LOCKS = ("requirements.lock", "requirements-demo.lock")

# Stands in for Python and pip: notes what it is asked to do, and changes nothing but its own folder.
RECORDER = """#!/bin/sh
case "$*" in
    *'import ensurepip'*) echo "good $0" ;;
    *_base_executable*) echo "$PYTHON" ;;
    *'import pip'*) exit 0 ;;
    *)
        echo "$*" >>calls
        case "$*" in *"${FAIL:-nothing fails}"*) exit 1 ;; esac
        case "$*" in *'-m venv'*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;; esac
        ;;
esac
"""


@pytest.fixture
def set_up(repo_root: Path, tmp_path: Path):
    """Run the set-up in a small copy of the clone; gives exit code, calls of Python, stderr."""
    clone = tmp_path / "a clone"
    (clone / "tools").mkdir(parents=True)
    for name in ["tools/setup.sh", "tools/find-python.sh", "pyproject.toml", *LOCKS]:
        (clone / name).write_bytes((repo_root / name).read_bytes())
    write(tmp_path / "bin/python3", RECORDER)

    def run(place: Path = clone, *words: str, **environment: str) -> tuple[int, list[str], str]:
        calls = place / "calls"
        calls.unlink(missing_ok=True)
        done = subprocess.run(
            ["/bin/sh", place / "tools/setup.sh", *words],
            env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
            | {"PYTHON": str(tmp_path / "bin/python3")}
            | environment,
            capture_output=True,
            text=True,
        )
        return done.returncode, calls.read_text().splitlines() if calls.exists() else [], done.stderr

    run.clone = clone
    return run


def test_set_up_happens_once(set_up) -> None:
    code, calls, error = set_up()
    assert (code, len(calls)) == (0, 4), error
    made, locked, editable, checked = calls
    assert made == "-m venv --clear .venv"
    assert {"--require-hashes", "--only-binary"} <= set(locked.split())
    assert {"--no-build-isolation", "--no-deps", "--no-index"} <= set(editable.split())
    assert checked == "-m pip check"
    assert set_up() == (0, [], "")
    assert set_up(PYTHON="") == (0, [], "")


def test_the_demo_needs_little_and_the_tests_add_the_rest_in_place(set_up) -> None:
    clone = set_up.clone
    _, calls, _ = set_up(clone, "demo")
    assert calls[1].endswith("-r requirements-demo.lock")
    assert set_up(clone, "demo") == (0, [], "")
    _, calls, _ = set_up(clone)
    assert [call.split()[2] for call in calls] == ["install", "install", "check"]
    assert calls[0].endswith("-r requirements.lock")
    assert set_up(clone, "demo") == (0, [], "")
    assert set_up(clone, "more")[0] == 2


@pytest.mark.parametrize("name", [*LOCKS, "pyproject.toml"])
def test_a_change_brings_the_environment_up_to_date_in_place(set_up, name: str) -> None:
    set_up()
    with (set_up.clone / name).open("a") as file:
        file.write("# changed\n")
    code, calls, _ = set_up()
    assert code == 0
    assert [call.split()[2] for call in calls] == ["install", "install", "check"]
    assert set_up() == (0, [], "")


def test_a_moved_clone_gets_a_new_environment(set_up, tmp_path: Path) -> None:
    set_up()
    moved = set_up.clone.rename(tmp_path / "moved")
    code, calls, _ = set_up(moved)
    assert (code, calls[0]) == (0, "-m venv --clear .venv")


def test_another_interpreter_gets_a_new_environment(set_up, tmp_path: Path) -> None:
    set_up()
    other = write(tmp_path / "bin/other", RECORDER)
    code, calls, _ = set_up(PYTHON=str(other))
    assert (code, calls[0]) == (0, "-m venv --clear .venv")


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ("-m venv", "could not make .venv"),
        ("--require-hashes", "needs a Python package index within reach"),
        ("-e .", "scaleband itself could not be installed"),
        ("pip check", "bring it up to date with: make lock"),
    ],
)
def test_a_failed_step_is_explained_and_done_again(set_up, step: str, sentence: str) -> None:
    code, _, error = set_up(FAIL=step)
    assert code == 1
    assert sentence in error
    code, calls, _ = set_up()
    assert code == 0
    assert len(calls) >= 3


LOCKED = re.compile(r"[a-z0-9.-]+==[^ ]+( ; [^\\]+)? \\")


def pinned(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([a-z0-9.-]+)==([^ ]+)", lock.read_text()))


@pytest.mark.parametrize("name", LOCKS)
def test_lock_holds_names_versions_and_hashes_only(repo_root: Path, name: str) -> None:
    text = (repo_root / name).read_text()
    for line in text.splitlines():
        if not line.lstrip().startswith("#"):
            assert LOCKED.fullmatch(line) or re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), line
    assert "://" not in text
    assert text.count("# via") == len([line for line in text.splitlines() if LOCKED.fullmatch(line)])


def test_lock_covers_what_the_project_asks_for(repo_root: Path) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    others = list(project["dependency-groups"]["dev"])
    others += [entry for extra in project["project"]["optional-dependencies"].values() for entry in extra]

    def names(entries: list[str]) -> set[str]:
        return {re.match(r"[A-Za-z0-9_.-]+", entry)[0].lower().replace("_", "-") for entry in entries}

    full, demo = (pinned(repo_root / name) for name in LOCKS)
    assert names(needed + others) <= set(full), "bring the lock up to date: make lock"
    assert names(needed) <= set(demo), "bring the lock up to date: make lock"
    assert demo.items() <= full.items(), "both locks pin the same versions"
    assert not {"torch", "ray", "pytest"} & set(demo)
