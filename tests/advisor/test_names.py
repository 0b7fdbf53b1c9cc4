"""What free text means, by general lists of words."""

from __future__ import annotations

import pytest

from stepwell.advisor.given import family, regime
from stepwell.advisor.names import FAMILIES, REGIMES, read_dataset, read_model, read_regime, read_task
from stepwell.advisor.published import published

MODELS = {
    "ViT-B/16": "vit",
    "resnet50": "cnn",
    "ResNeXt-101": "cnn",
    "efficientnet_b3": "mobile",
    "ConvNeXt-XL": "modern_cnn",
    "bert-base-uncased": "masked_lm",
    "DeBERTa-v3": "masked_lm",
    "Mistral 7B": "causal_lm",
    "gpt2": "causal_lm",
    "T5-small": "seq2seq",
    "StyleGAN2": "gan",
    "CycleGAN": "gan",
    "Stable Diffusion XL": "diffusion",
    "ppo on atari": "policy",
    "GraphSAGE": "graph",
    "Faster R-CNN": "detector",
    "SegFormer-B2": "segmenter",
    "wav2vec2": "speech",
    "HTDemucs": "separation",
    "DLRM": "recommender",
    "SASRec": "recommender",
    "MAE ViT-L": "masked_image",
    "SimCLR": "contrastive_image",
    "CLIP ViT-B/32": "contrastive",
    "Informer": "time_series",
    "TabNet": "tabular",
    "NeRF": "radiance",
    "PINN": "pinn",
    "LSTM": "recurrent",
    "QLoRA Llama": "lora",
    "EDSR": "restorer",
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    assert read_model(name).architecture == MODELS[name]


def test_sizes_norms_and_optimizers_in_names() -> None:
    assert read_model("OLMo-2 13B").params == 13e9
    assert read_model("GPT-3 125M").params == 125e6
    assert read_model("ResNet-50").params is None
    assert read_model("VGG-16 (no BN)").batch_norm is False
    assert read_model("VGG-16").batch_norm is False
    assert read_model("VGG-16-BN").batch_norm is None
    assert read_model("GPT-2 Sophia-G").optimizer == "sophia"


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("object detection", "detection"),
        ("image classification", "image_classification"),
        ("Language modeling", "causal_lm"),
        ("semantic_segmentation", "semantic segmentation"),
        ("machine translation", "translation"),
        ("speech recognition", "asr"),
        ("click-through", "ctr"),
        ("node classification", "node_classification"),
        ("mlm", "masked_lm"),
        ("SFT", "instruction tuning"),
        ("DPO", "preference optimization"),
        ("blah", ""),
    ],
)
def test_tasks(text: str, task: str) -> None:
    assert read_task(text) == task


def test_data_and_regimes() -> None:
    assert read_dataset("COCO")[0] == "detection"
    assert read_dataset("ImageNet-1k") == ("image_classification", 1_281_167)
    assert read_dataset("nothing") == ("", None)
    assert read_regime("fine-tuning") == "fine_tune"
    assert read_regime("linear probe") == "linear_probe"


def test_every_word_of_the_data_is_understood() -> None:
    for row in published():
        assert family(row.family) == row.family
        assert regime(row.regime) == row.regime
        assert row.task in ("any", "8 workloads") or read_task(row.task)
    assert {row.family for row in published()} == set(FAMILIES)
    assert {row.regime for row in published()} == set(REGIMES)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("GAN", "gan"),
        ("CNN classification", "cnn_classification"),
        ("resnet", "cnn_classification"),
        ("diffusion model", "diffusion"),
        ("reinforcement learning", "rl"),
    ],
)
def test_families_in_free_text(text: str, meant: str) -> None:
    assert family(text) == meant
