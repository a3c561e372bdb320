"""Tell Transformers about ROC: after `import roc.register`, no `trust_remote_code` is needed."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoProcessor

from roc.configuration_roc import RocConfig
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor

AutoConfig.register("roc", RocConfig, exist_ok=True)
AutoModel.register(RocConfig, RocModel, exist_ok=True)
AutoProcessor.register(RocConfig, RocProcessor, exist_ok=True)
