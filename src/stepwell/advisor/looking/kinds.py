"""From the facts of a module to the kind of network, in the words of `names`."""

from __future__ import annotations

from typing import Any

from stepwell.advisor.looking.counted import Facts
from stepwell.advisor.names import read_model
from stepwell.advisor.situation import Situation

_TIME = ("timestep", "timesteps", "temb", "time_embed", "time_mlp", "time_embedding", "t_embedder", "time_proj",
         "timestepembedder", "time_emb", "sigma", "noise_level", "t_embed", "sinusoidalposemb",
         "timeembedding")  # fmt: skip
_GRAPH = ("edge_index", "edge_attr", "adj", "adjacency", "graph", "edges", "edge_weight", "adj_t", "blocks_dgl")
_SOUND = ("input_values", "waveform", "waveforms", "mel", "mels", "audio", "input_features", "spectrogram", "wav",
          "log_mel", "speech")  # fmt: skip


def kind(facts: Facts, one: Situation) -> tuple[dict[str, Any], list[str], list[str]]:
    """(fields of the situation, traits, notes) of a module.

    Structure decides, and names decide where structures are alike, as between a causal and a masked language model.
    """
    traits = _traits(facts)
    notes: list[str] = []
    architecture, task = _architecture(facts, one)
    fields: dict[str, Any] = {}
    if architecture:
        fields["architecture"] = architecture
    else:
        notes.append("the kind of network was not recognized; give task= or family=")
    fields["backbone"] = _backbone(facts, architecture)
    if task and not one.task and not one.family:
        fields["task"] = task
        notes.append(f"the task is taken to be {task}, from the shape of the model; give task= if it is not")
    if facts.layers["conv2d"] and not facts.layers["batch_norm"] and not facts.layers["other_norm"]:
        fields["batch_norm"] = False
    if fields.get("batch_norm") is False and architecture in ("cnn", "mobile", "detector", "segmenter"):
        notes.append("there is no norm layer: published rates for such networks are about 10 times smaller")
    return fields, traits, notes


def _traits(facts: Facts) -> list[str]:
    layers, found = facts.layers, []
    found += ["convolutional"] if layers["conv1d"] or layers["conv2d"] or layers["conv3d"] else []
    found += ["attention"] if layers["attention"] else []
    found += ["recurrent"] if layers["recurrent"] else []
    found += ["embeddings"] if layers["embedding"] else []
    if layers["sparse"]:
        found.append("sparse")
        found += ["dense"] if layers["linear"] or layers["conv2d"] or layers["embedding"] > layers["sparse"] else []
    found += ["batch norm"] if layers["batch_norm"] else []
    found += ["layer norm"] if layers["other_norm"] else []
    found += ["no norm layers"] if not layers["batch_norm"] and not layers["other_norm"] else []
    return found


def _architecture(facts: Facts, one: Situation) -> tuple[str, str]:
    """(architecture, task that the shape suggests)."""
    layers, named = facts.layers, read_model(facts.root)
    if any(name.startswith("lora") for name in facts.names):
        return "lora", "instruction tuning" if facts.vocabulary else ""
    if _is_gan(facts):
        return "gan", "image_generation"
    if facts.inputs & set(_GRAPH) or facts.has(
        "messagepassing", "gcnconv", "gatconv", "sageconv", "ginconv", "graphconv"
    ):
        return "graph", "node_classification"
    if (facts.has("actor") and facts.has("critic")) or facts.has(
        "log_std", "logstd", "policy_net", "q_net", "qnetwork"
    ):
        return "policy", "continuous control" if facts.has("log_std", "logstd") else "discrete control"
    if facts.has("policy", "actor", "dqn", "advantage") and not layers["attention"]:
        return "policy", "discrete control"
    if facts.has(*_TIME) or facts.inputs & {"timestep", "timesteps", "t", "sigma", "noise_level", "time"} - (
        {"t", "time"} if not (layers["conv2d"] or layers["attention"]) else set()
    ):
        return "diffusion", "image_generation"
    if facts.has("logit_scale") and facts.has("visual", "vision", "image", "text"):
        return "contrastive", "image-text contrastive"
    if facts.inputs & set(_SOUND) or named.architecture in ("speech", "separation"):
        is_pair = named.architecture == "separation" or facts.has("separator", "mask_net")
        return ("separation", "music source separation") if is_pair else ("speech", "asr")
    if facts.has("rpn", "roi", "anchor", "anchors", "bbox", "box") and (layers["conv2d"] or layers["attention"]):
        return "detector", "detection"
    if layers["attention"] and (layers["patch"] or facts.inputs & {"pixel_values"} or _patches(facts)):
        return "vit", "image_classification"
    if layers["conv1d"] and layers["attention"] and not layers["embedding"]:
        return "speech", "asr"
    if layers["attention"] and facts.vocabulary:
        return _language(facts, named.architecture)
    if layers["recurrent"] and facts.vocabulary:
        is_lm = facts.outputs == facts.vocabulary
        return "recurrent", "word LM" if is_lm else "text classification"
    if layers["sparse"] or layers["bag"] or (layers["embedding"] >= 2 and not layers["conv2d"]):
        return "recommender", "ctr" if facts.outputs == 1 else "top-k recommendation"
    if layers["conv2d"] or layers["conv3d"]:
        return _convolutional(facts, named.architecture)
    if named.architecture in ("time_series", "tabular", "pinn", "radiance"):
        return named.architecture, ""
    if layers["conv1d"]:
        return "speech", "asr"
    if "Transformer" in facts.classes:
        return "seq2seq", "translation"
    if layers["recurrent"] or (layers["attention"] and not facts.vocabulary):
        return "time_series", "forecasting"
    if layers["linear"]:
        if layers["tanh"] and facts.inputs_of_first <= 4 and facts.outputs <= 4:
            return "pinn", "pde"
        return "mlp", "tabular"
    return named.architecture, ""


def _is_gan(facts: Facts) -> bool:
    pairs = (("generator", "discriminator"), ("netg", "netd"), ("g", "d"), ("gen", "disc"), ("generator", "critic"))
    if any(one in facts.names and other in facts.names and one in facts.top for one, other in pairs):
        return True
    layers = facts.layers
    alone = any(word in facts.root.split() for word in ("generator", "discriminator", "gan"))
    made = bool(layers["transposed"]) and bool(layers["tanh"]) and not layers["conv2d"]  # from noise to an image
    pair = bool(layers["transposed"]) and bool(layers["leaky"]) and facts.root == "module list"
    return (alone and bool(layers["conv2d"] + layers["transposed"] + layers["linear"])) or made or pair


def _patches(facts: Facts) -> bool:
    return facts.has("cls_token", "patch", "patches", "patchembed", "patch_embed") and not facts.vocabulary


def _language(facts: Facts, named: str) -> tuple[str, str]:
    if named == "masked_lm" and not facts.outputs < facts.vocabulary / 4:
        return "masked_lm", "masked_lm"
    if named == "seq2seq" or (facts.has("encoder") and facts.has("decoder")) or "Transformer" in facts.classes:
        return "seq2seq", "translation"
    if facts.outputs < facts.vocabulary / 4 and facts.outputs < 1000:  # a small head: classes, not tokens
        return "masked_lm", "text classification"
    if named == "masked_lm" or facts.has("mask_token", "mlm", "bert"):
        return "masked_lm", "masked_lm"
    return "causal_lm", "causal_lm"


def _convolutional(facts: Facts, named: str) -> tuple[str, str]:
    layers = facts.layers
    if layers["conv3d"]:
        return ("segmenter", "3D segmentation") if facts.last == "conv" else ("cnn", "image_classification")
    if layers["shuffle"]:
        return "restorer", "super resolution"
    if facts.last == "conv" and (layers["transposed"] or layers["upsample"] or facts.has("up", "decoder", "unet")):
        return "segmenter", "semantic segmentation"
    if facts.last == "conv" and facts.outputs == facts.inputs_of_first and not layers["batch_norm"]:
        return "restorer", "super resolution"
    if layers["attention"] and not layers["batch_norm"]:
        return "vit", "image_classification"
    if layers["depthwise"] > 2:
        if facts.largest_kernel >= 7 and not layers["batch_norm"]:
            return "modern_cnn", "image_classification"
        return "mobile", "image_classification"
    if named in ("mobile", "modern_cnn", "segmenter", "detector"):
        return named, ""
    return "cnn", "image_classification"


def _backbone(facts: Facts, architecture: str) -> str:
    if architecture == "vit" or (facts.layers["patch"] and facts.layers["attention"]):
        return "vit"
    return "cnn" if facts.layers["conv2d"] and not facts.layers["attention"] else ""
