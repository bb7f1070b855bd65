"""What a model is trained to do, by its configuration."""

from __future__ import annotations

import pytest
import transformers as hf

from onejump.models.tasks import stated_task


@pytest.mark.parametrize(
    ("configuration", "task"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "causal"),
        ({"architectures": ["GPT2LMHeadModel"]}, "causal"),
        ({"architectures": ["BertForPreTraining", "BertForMaskedLM"]}, "masked"),
        ({"architectures": ["RobertaForSequenceClassification"]}, "classification"),
        ({"architectures": ["BartModel"], "is_encoder_decoder": True}, "seq2seq"),
        ({"architectures": ["BartForSequenceClassification"], "is_encoder_decoder": True}, "classification"),
        ({"architectures": "LlamaForCausalLM"}, "causal"),
        ({"architectures": [None]}, "causal"),
        ({}, "causal"),
        (hf.T5Config().to_dict(), "seq2seq"),
        (hf.MarianConfig(architectures=["MarianMTModel"]).to_dict(), "seq2seq"),
        (hf.MarianConfig(architectures=["MarianForCausalLM"], is_encoder_decoder=False).to_dict(), "causal"),
    ],
)
def test_a_configuration_states_the_task(configuration: dict, task: str) -> None:
    assert stated_task(configuration) == task
