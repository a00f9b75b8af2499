"""Models run without cuDNN's attention, whose gradients are NaN for some lengths."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_llama, tiny_t5, tiny_tokenizer

from prompttransfer.methods.objectives import task_loss
from prompttransfer.models import Backbone
from prompttransfer.models.answering import Reader
from prompttransfer.models.attention import without_cudnn_attention
from prompttransfer.prompts import SoftPrompt, initial_prompt

allowed = torch.backends.cuda.cudnn_sdp_enabled


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_layer_may_use_it_not_even_when_it_is_computed_again(make, checkpointing: bool) -> None:
    backbone = Backbone(make(), tiny_tokenizer(), precision="float32", checkpointing=checkpointing)
    seen: list[bool] = []
    linear = [module for module in backbone.model.modules() if isinstance(module, torch.nn.Linear)]
    for module in linear:
        module.register_forward_hook(lambda *_: seen.append(allowed()))
    prompt = SoftPrompt(initial_prompt(backbone, 4))
    batch = backbone.collate([[10, 11, 12], [13]], [[14], [15]])
    task_loss(backbone, prompt, batch | {"task_ids": torch.tensor([0, 0])}).backward()
    trained = len(seen)
    Reader(backbone, prompt.composed(0)).first_token_scores([[10, 11, 12], [13]], [14, 15])
    assert trained > len(linear) / 2 and len(seen) > trained and not any(seen)
    assert allowed()


def test_the_setting_is_put_back() -> None:
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        with without_cudnn_attention():
            assert not allowed()
        assert not allowed()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)
    with pytest.raises(ZeroDivisionError), without_cudnn_attention():
        raise ZeroDivisionError
    assert allowed()
