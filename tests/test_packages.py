"""The wheel and the sdist hold what a user needs, and install where the checkout is far away (slow)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny import save_tiny

ROOT = Path(__file__).resolve().parents[1]
DATA = ("relations", "configs", "studies", "released/roc_open_small")  # folders of which everything is needed
EXAMPLES = ("examples/couple.png", "examples/teammates.png")  # what model cards show
WITHOUT_NETWORK = {"PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1"}
FIRST_BLOCK = re.compile(r"^```python\n(.*?)^```\n+```text\n(.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.slow


def tracked() -> list[str]:
    """The files of the checkout that git knows or would take."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def run(command: Sequence[object], cwd: Path) -> str:
    """Run a command that knows nothing of the checkout; returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    environment |= {**WITHOUT_NETWORK, "HF_HOME": str(cwd / "cache")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the sdist, built from a copy, so that nothing is left in the checkout."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    for kind in ("wheel", "sdist"):  # what `python -m build` calls
        run([sys.executable, "-c", f"import setuptools.build_meta as b; b.build_{kind}({str(out)!r})"], copy)
    [wheel], [sdist] = out.glob("*.whl"), out.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="module")
def wheel_files(built: dict[str, Path]) -> set[str]:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        return set(wheel.namelist())


@pytest.fixture(scope="module")
def sdist_files(built: dict[str, Path]) -> set[str]:
    with tarfile.open(built["sdist"]) as sdist:
        return {name.partition("/")[2] for name in sdist.getnames()}


def needed() -> list[str]:
    """The files of the checkout that an installed ROC needs."""

    files = tracked()
    packages = {name.partition("/")[0] for name in files if name.endswith("/__init__.py")} - {"tests"}

    def is_needed(name: str) -> bool:
        top, _, rest = name.partition("/")
        is_code = top == "dataset_scripts" or (name.endswith(".py") and (not rest or top in packages))
        return is_code or name.startswith(DATA) or name in (*EXAMPLES, "model_card.md", "LICENSE", "py.typed")

    return [name for name in files if is_needed(name)]


def test_the_wheel_holds_all_code_and_data(wheel_files: set[str]) -> None:
    files = needed()
    assert {"pipeline_roc.py", "train.py", "dataset_scripts/mnre.py", "relations/mnre.yaml"} <= {*files}
    assert {"training/loop.py", "evaluation/metrics/roc_f1/roc_f1.py"} <= {*files}
    assert [name for name in files if f"roc/{name}" not in wheel_files] == []


def test_the_wheel_holds_no_tests_and_nothing_that_git_does_not_know(wheel_files: set[str]) -> None:
    own = {name.removeprefix("roc/") for name in wheel_files if ".dist-info/" not in name}
    assert own <= {*tracked()}
    assert [name for name in own if name.startswith(("tests/", "docs/")) or "conftest" in name] == []


def test_the_sdist_holds_what_the_wheel_is_built_from(sdist_files: set[str]) -> None:
    wanted = [*needed(), "README.md", "pyproject.toml", "setup.cfg"]
    assert [name for name in wanted if name not in sdist_files] == []


@pytest.fixture(params=["wheel", "sdist"])
def python(request: pytest.FixtureRequest, built: dict[str, Path], tmp_path: Path) -> Path:
    """The interpreter of a fresh environment with ROC installed, which borrows the other packages from ours."""
    archive = built[request.param]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if request.param == "sdist":
        run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path / "own", archive], tmp_path)
        [archive] = (tmp_path / "own").glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    [python] = (tmp_path / "venv").glob("bin/python") or (tmp_path / "venv").glob("Scripts/python.exe")
    run([*pip, "--python", python, "install", "--no-deps", archive], tmp_path)
    site = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path).strip()
    # afterwards: pip must not see an installed ROC that it would replace
    (Path(site) / "borrowed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return python


def write_demo(folder: Path) -> None:
    """A tiny untrained model and the picture, where README's first example looks for the demo's."""
    save_tiny(folder / "outputs" / "demo" / "model")
    (folder / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "couple.png", folder / "examples")


def test_an_installed_roc_runs_the_first_example_and_its_programs(python: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "elsewhere"
    cwd.mkdir()
    write_demo(cwd)
    block, promised = FIRST_BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))[0]
    printed = run([python, "-c", block], cwd)
    assert len(printed.splitlines()) == len(promised.splitlines())
    trusting_none = "import roc.register\n" + block.replace(", trust_remote_code=True", "")
    trusting_none += "\nimport roc.modeling_roc\nprint(roc.modeling_roc.__file__)"
    *same, where = run([python, "-c", trusting_none], cwd).splitlines()
    assert same == printed.splitlines()
    assert Path(where).is_relative_to(tmp_path / "venv"), "another ROC was found"
    post = ["--text", "ann met bob", "--head", "ann", "--tail", "bob", "--relations", "relations/more.yaml"]
    told = run([python.with_name("roc-predict"), "--model", "outputs/demo/model", *post, "--top_k", "99"], cwd)
    assert '"/per/per/opponent"' in told, "the relation file of the package was not found"


def test_types_of_an_installed_roc_are_checked_where_it_is_used(python: Path, tmp_path: Path) -> None:
    """What py.typed promises: without it, mypy takes everything from ROC for `Any`."""
    (tmp_path / "wrong.py").write_text("from roc.messages_roc import did_you_mean\n\ndid_you_mean(3, 4)\n")
    mypy = [sys.executable, "-m", "mypy", "--python-executable", python, "--cache-dir", tmp_path / "types", "wrong.py"]
    checked = subprocess.run([*map(str, mypy)], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    assert checked.stdout.count("error: Argument") == 2, checked.stdout
