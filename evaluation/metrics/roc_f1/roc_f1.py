"""Local `evaluate` metric for relation extraction: `evaluate.load("./evaluation/metrics/roc_f1")`."""

# `evaluate` reads the imports line by line with a regular expression: one module a line, nothing after it.
from typing import Any

import datasets
import evaluate

from roc.evaluation.scoring import relation_scores

_DESCRIPTION = """\
Scores of relation extraction. Micro precision, recall and F1 leave the "no relation" label out, as the field reports
them on MNRE and MORE; accuracy is over all pairs; macro F1 is the mean over the relations that occur.
"""

_INPUTS = """\
Args:
    predictions (list of str): predicted relation names, one per entity pair.
    references (list of str): true relation names, in the same order.
    none_relation (str or None): the name that means "no relation"; None when the inventory has none. It has no default,
        since a wrong guess changes every score.

Returns:
    accuracy, precision, recall, micro_f1, macro_f1 (float), per_relation (name to precision, recall, f1, support), n.

Examples:
    >>> metric = evaluate.load("./evaluation/metrics/roc_f1")
    >>> scores = metric.compute(predictions=["peer", "None"], references=["peer", "couple"], none_relation="None")
    >>> scores["precision"], scores["recall"]
    (1.0, 0.5)
"""

_CITATION = """\
@inproceedings{han2019opennre,
  title={OpenNRE: An Open and Extensible Toolkit for Neural Relation Extraction},
  author={Han, Xu and Gao, Tianyu and Yao, Yuan and Ye, Deming and Liu, Zhiyuan and Sun, Maosong},
  booktitle={Proceedings of EMNLP-IJCNLP: System Demonstrations},
  year={2019}
}
"""


class RocF1(evaluate.Metric):
    """Wraps `roc.evaluation.scoring.relation_scores`, which holds the formulas."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str], *, none_relation: str | None) -> dict[str, Any]:
        return relation_scores(predictions, references, none_relation=none_relation)
