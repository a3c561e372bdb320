"""The list of files shows the architecture: what travels to the Hub, the rooms, who imports whom, and short files."""

from __future__ import annotations

import ast
import configparser
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

grimp = pytest.importorskip("grimp")
networkx = pytest.importorskip("networkx")
tomllib = pytest.importorskip("tomllib")  # Python 3.11

ROOT = Path(__file__).resolve().parents[1]
TRACKED = [
    Path(name)
    for name in subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.splitlines()
    if (ROOT / name).is_file()
]
CODE = [path for path in TRACKED if path.suffix == ".py" and path.parts[0] != "tests"]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
FOLDERS = sorted({path.parent for path in CODE if path.name == "__init__.py"})
# Without `site`, an editable installation adds nothing to `sys.path`: `roc` is the copy alone.
LINT = f"""
import sys
sys.path[:0] = [sys.argv[1], {sysconfig.get_path("purelib")!r}]
from importlinter.cli import lint_imports
sys.exit(lint_imports(config_filename=sys.argv[2], no_cache=True))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the code to break."""
    for path in CODE:
        (tmp_path / "roc" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, tmp_path / "roc" / path)
    return tmp_path / "roc"


def lint(root: Path) -> tuple[int, str]:
    """The exit code and the output of import-linter."""
    command = [sys.executable, "-S", "-c", LINT, str(root.parent), str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root.parent)
    return done.returncode, done.stdout + done.stderr


def test_the_contracts_are_kept(copy: Path) -> None:
    code, output = lint(copy)
    assert code == 0, output
    assert "Contracts: 2 kept, 0 broken." in output


@pytest.mark.parametrize(
    ("importer", "line", "broken"),
    [
        ("messages_roc.py", "from roc.support.files import atomic_write", 0),
        ("handler.py", "import roc.register", 0),
        ("support/files.py", "from roc.relations.files import read_relation_file", 1),
        ("samples/grouping.py", "import roc.inference.posts", 1),
        ("training/loop.py", "import roc.publishing.card", 1),
    ],
)
def test_a_contract_that_is_broken_fails(copy: Path, importer: str, line: str, broken: int) -> None:
    file = copy / importer
    file.write_text(file.read_text(encoding="utf-8") + f"\n\n{line}\n", encoding="utf-8")
    code, output = lint(copy)
    assert code == 1
    assert f"{CONTRACTS[broken]['name']} BROKEN" in output


def test_the_first_contract_names_all_that_travels_to_the_hub_and_forbids_all_else() -> None:
    travels = {f"roc.{path.stem}" for path in CODE if path.name.endswith("_roc.py")} | {"roc.handler"}
    assert set(CONTRACTS[0]["source_modules"]) == travels
    root_files = {f"roc.{path.stem}" for path in CODE if len(path.parts) == 1}
    rooms = {f"roc.{folder.parts[0]}" for folder in FOLDERS}
    assert set(CONTRACTS[0]["forbidden_modules"]) == (root_files - travels) | rooms


def test_every_room_has_a_layer() -> None:
    layers = {name for layer in CONTRACTS[1]["layers"] for name in layer.split(" | ")}
    assert layers == set(CONTRACTS[0]["forbidden_modules"])


def test_no_two_modules_import_each_other_even_by_a_detour() -> None:
    graph = networkx.DiGraph()
    for module, imported in _imports():
        graph.add_edge(module, imported)
    assert graph.number_of_edges() > 300
    assert [sorted(cycle) for cycle in networkx.strongly_connected_components(graph) if len(cycle) > 1] == []


def _imports() -> Iterator[tuple[str, str]]:
    graph = grimp.build_graph("roc", exclude_type_checking_imports=True, cache_dir=None)
    own = {"roc." + ".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in CODE}
    for module in graph.modules & own:
        yield from ((module, imported) for imported in graph.find_modules_directly_imported_by(module) & own)


def test_the_root_can_be_taken_in_at_a_glance() -> None:
    assert len([path for path in CODE if len(path.parts) == 1]) <= 30
    assert len({path.parts[0] for path in TRACKED}) <= 60
    prefixes = ("configuration_", "modeling_", "processing_", "relations_", "pipeline_", "messages_", "loss_")
    assert [path.name for path in CODE if path.name.endswith("_roc.py") and not path.name.startswith(prefixes)] == []


def test_a_room_says_what_it_is_for_and_is_part_of_the_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    packages = config["options"]["packages"].split()
    assert sorted(packages) == sorted(["roc", *("roc." + ".".join(folder.parts) for folder in FOLDERS)])
    for folder in FOLDERS:
        tree = ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), folder
        assert len(tree.body) == 1, f"{folder}/__init__.py does more than say what the folder is for"


def test_the_tests_mirror_the_folders() -> None:
    folders = {path.parts[1] for path in TRACKED if path.parts[0] == "tests" and path.name.startswith("test_")}
    rooms = {path.parts[0] for path in CODE if len(path.parts) > 1}
    assert {name for name in folders if not name.endswith(".py")} <= rooms | {"model"}  # of what travels to the Hub


@pytest.mark.parametrize("path", CODE, ids=str)
def test_no_file_and_no_function_is_long(path: Path) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 500
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert {node.name: length for node in functions if (length := _length(node)) > 40} == {}


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Its lines, without the docstring."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    documented = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - documented
