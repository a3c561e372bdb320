"""Tell Transformers about ROC: after `import roc.register`, no `trust_remote_code` is needed."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from roc.configuration_roc import CUSTOM_PIPELINES, RocConfig
from roc.modeling_roc import RocModel
from roc.pipeline_roc import RocPipeline
from roc.processing_roc import RocProcessor
from roc.support.resources import find_default_model


class _SavedOnly:
    """A value that is written into `config.json` but reads as empty.

    Transformers would run the pipeline that a configuration names, not the registered one, and ask to be trusted.
    """

    def __get__(self, config: Any, owner: type) -> dict[str, Any]:
        return {}

    def __set__(self, config: Any, value: dict[str, Any]) -> None:
        vars(config)["custom_pipelines"] = value


class _DefaultModel(dict[str, Any]):
    """Which model, and which revision of it, a pipeline loads that names none; looked for when one is made."""

    def __getitem__(self, key: str) -> tuple[str, None]:
        return find_default_model(), None


AutoConfig.register("roc", RocConfig, exist_ok=True)
AutoModel.register(RocConfig, RocModel, exist_ok=True)
AutoProcessor.register(RocConfig, RocProcessor, exist_ok=True)
RocConfig.custom_pipelines = _SavedOnly()
for task, own in CUSTOM_PIPELINES.items():
    parts: dict[str, Any] = {"pipeline_class": RocPipeline, "pt_model": AutoModel, "type": own["type"]}
    PIPELINE_REGISTRY.register_pipeline(task, default=_DefaultModel(model=None), **parts)
