"""The shape of the code: which room may import which, and what no file may do."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
PACKAGE = SOURCE / "scaleband"

# Room -> the rooms it may import, written out in full. Files beside the rooms (`errors`, ...) are open to all;
# the root `__init__` may reach every room, lazily. A room that is missing here fails the tests: a new one is one line.
ROOMS: dict[str, set[str]] = {
    "runs": set(),
    "laws": {"runs"},
    "bayes": {"laws", "runs"},
    "inference": {"bayes", "laws", "runs"},
    "predict": {"laws", "runs"},
    "design": {"predict", "laws", "runs"},
    "training": {"runs"},  # nothing of the statistics
    "campaign": {"design", "inference", "training", "predict", "bayes", "laws", "runs"},
    "plots": {"design", "predict", "laws", "runs"},
    "cli": {"runs", "laws", "bayes", "inference", "predict", "design", "training", "campaign", "plots"},
}

# Third-party packages with a place of their own.
HOMES = {
    "pymc": {"bayes", "inference"},
    "pytensor": {"bayes", "inference"},
    "nutpie": {"inference"},
    "matplotlib": {"plots"},
    "torch": {"training"},
    "optuna": {"campaign"},
    "sqlalchemy": {"campaign"},
    "dask": {"training"},
    "ray": {"training"},
    "submitit": {"training"},
}

LAZY = [
    "arviz_base", "arviz_stats", "matplotlib", "nutpie", "optuna", "pandas", "pymc", "pytensor", "sqlalchemy", "torch",
    "xarray",
]  # fmt: skip
VAGUE = {"utils", "util", "helpers", "helper", "base", "common", "misc"}
LINES_AT_MOST = 400

FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def room_of(path: Path) -> str:
    """The room a file is in; '' for the files beside the rooms."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything a file imports, wherever in the file it does so.

    `from scaleband import predict` and `from .. import predict` both give `scaleband.predict`.
    """
    package = list(path.relative_to(SOURCE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            if not isinstance(node.args[0], ast.Constant):
                continue  # a computed name cannot be read here
            yield node.lineno, str(node.args[0].value)


def forbidden_imports(path: Path) -> list[str]:
    room = room_of(path)
    found = []
    for line, imported in imports_of(path):
        top, _, rest = imported.partition(".")
        target = rest.partition(".")[0]
        where = f"{name_of(path)}:{line}"
        if top == "scaleband" and room and target in ROOMS.keys() - {room} - ROOMS.get(room, set()):
            found.append(f"{where}: {room} imports {target}; it may import {sorted(ROOMS[room])}")
        if top in HOMES and room not in HOMES[top]:
            found.append(f"{where}: {top} belongs in {sorted(HOMES[top])}")
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_follow_the_arrows(path: Path) -> None:
    assert not forbidden_imports(path)


def test_every_room_has_its_rule() -> None:
    assert {room_of(path) for path in FILES} - {""} <= ROOMS.keys()


def test_rules_are_transitive_and_without_a_circle() -> None:
    for room, allowed in ROOMS.items():
        assert room not in allowed
        for reached in allowed:
            assert ROOMS[reached] <= allowed, f"{room} may import {reached}, so also what {reached} imports"
    assert not any("cli" in allowed for allowed in ROOMS.values())


def test_the_import_reader_sees_every_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "scaleband")
    path = tmp_path / "scaleband" / "laws" / "basin.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import scaleband.predict.regret\n"
        "from scaleband import cli\n"
        "from scaleband.plots import draw\n"
        "from .. import design\n"
        "def late():\n"
        "    from ..inference.sample import fit\n"
        "    import importlib; importlib.import_module('scaleband.campaign')\n"
        "    import pymc\n"
        "from . import optimum\n"
        "from ..runs.table import read\n"
        "from ..errors import UserError\n"
    )
    lines = [problem.split(":")[1] for problem in forbidden_imports(path)]
    assert sorted(lines) == ["1", "2", "3", "4", "6", "7", "8"]


def test_import_scaleband_is_light() -> None:
    code = f"import sys, scaleband; print(*sorted(set({LAZY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], "import it inside the function that needs it"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES_AT_MOST, "split it along what it does"
    assert ast.get_docstring(ast.parse(text)), "start the file with a docstring that says what it is for"


def test_no_file_has_a_name_that_says_nothing() -> None:
    vague = [
        name_of(path)
        for path in FILES
        if VAGUE & {part.strip("_") for part in path.relative_to(PACKAGE).with_suffix("").parts}
    ]
    assert vague == []


def dangers_of(tree: ast.AST) -> Iterator[str]:
    """Ways to run what a file or a user's text says."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module)):
                modules = [module]
            case _:
                modules = []
        for module in modules:
            if module.split(".")[0] in {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}:
                yield f"line {node.lineno}: {module}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in {"eval", "exec", "os.system", "os.popen"} or called.endswith("read_pickle"):
                yield f"line {node.lineno}: {called}"
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else "not constant"
                if keyword.arg in {"shell", "allow_pickle"} and value is not False:
                    yield f"line {node.lineno}: {keyword.arg}={value}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_pickle_no_eval_no_shell(path: Path) -> None:
    assert list(dangers_of(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec(text)",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=flag)",
        "np.load(f, allow_pickle=True)",
        "pd.read_pickle(f)",
    ],
)
def test_dangers_are_seen(code: str) -> None:
    assert list(dangers_of(ast.parse(code)))


@pytest.mark.parametrize("code", ["np.load(f, allow_pickle=False)", "subprocess.run(['ls'])", "model.eval()"])
def test_harmless_calls_pass(code: str) -> None:
    assert list(dangers_of(ast.parse(code))) == []


@pytest.mark.parametrize("room", sorted({room_of(path) for path in FILES} - {""}))
def test_public_names_exist_and_are_documented(room: str) -> None:
    module = importlib.import_module(f"scaleband.{room}")
    public = getattr(module, "__all__", [])
    assert len(set(public)) == len(public)
    missing = [name for name in public if not hasattr(module, name)]
    assert missing == [], f"in scaleband.{room}.__all__ but not there"
    documents = {
        name: getattr(module, name).__doc__ or "" for name in public if callable(getattr(module, name))
    }
    bare = [
        name for name, text in documents.items() if not text or text.startswith(f"{name}(")
    ]  # a dataclass's own
    assert bare == [], f"public in scaleband.{room}, without a docstring"
