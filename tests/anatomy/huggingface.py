"""Real models of Hugging Face, small and with random weights, made from a configuration: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class _Transformers:
    """The package, imported when the first model is made: `make test-fast` makes none, and it takes seconds."""

    def __getattr__(self, name: str) -> Any:
        import transformers

        return getattr(transformers, name)


hf = _Transformers()

TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
TEXT = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
ENCODER = {**TEXT, "max_position_embeddings": 20}
DECODER = {**TEXT, "num_key_value_heads": 1}
VISION = {key: value for key, value in TEXT.items() if key != "vocab_size"} | {"image_size": 32, "patch_size": 8}
TWO_STACKS = {
    "vocab_size": 50,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    **TOKENS,
}


def _t5() -> nn.Module:
    config = hf.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=3, num_heads=2)
    return hf.T5ForConditionalGeneration(config)


def _opt() -> nn.Module:
    config = hf.OPTConfig(
        vocab_size=50, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, **_short(TOKENS)
    )
    return hf.OPTForCausalLM(config)


def _short(tokens: dict[str, int]) -> dict[str, int]:
    return {key: value for key, value in tokens.items() if key != "decoder_start_token_id"}


def _resnet(kind: str) -> nn.Module:
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type=kind, num_labels=3)
    return hf.ResNetForImageClassification(config)


def _detr() -> nn.Module:
    backbone = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    size = {key: value for key, value in TWO_STACKS.items() if key not in {"vocab_size", *TOKENS}}
    config = hf.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, num_queries=5,
        num_labels=3, **size,
    )  # fmt: skip
    return hf.DetrForObjectDetection(config)


def _wav2vec2() -> nn.Module:
    convolutions = {"conv_dim": (16, 16), "conv_stride": (2, 2), "conv_kernel": (3, 3), "num_feat_extract_layers": 2}
    config = hf.Wav2Vec2Config(**TEXT, **convolutions, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    return hf.Wav2Vec2ForCTC(config)


def _clip() -> nn.Module:
    text: dict[str, Any] = {**ENCODER, **_short(TOKENS)}
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16))


def _musicgen() -> nn.Module:
    config = hf.MusicgenDecoderConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, num_codebooks=2
    )
    return hf.MusicgenForCausalLM(config)


def _segformer() -> nn.Module:
    config = hf.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 2], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, num_labels=3,
    )  # fmt: skip
    return hf.SegformerForSemanticSegmentation(config)


# model -> how to make it, how many blocks it has, and for some names: (role, depth)
MODELS: dict[str, tuple[Callable[[], nn.Module], int, dict[str, tuple[str, int]]]] = {
    "BERT": (
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**ENCODER)),
        3,
        {
            "bert.embeddings.word_embeddings.weight": ("embedding", 0),
            "bert.embeddings.position_embeddings.weight": ("position", 0),
            "bert.embeddings.token_type_embeddings.weight": ("embedding", 0),
            "bert.embeddings.LayerNorm.bias": ("norm", 0),
            "bert.encoder.layer.0.attention.self.query.weight": ("matrix", 1),
            "bert.encoder.layer.2.attention.self.query.bias": ("bias", 3),
            "bert.encoder.layer.2.output.LayerNorm.weight": ("norm", 3),
            "bert.pooler.dense.weight": ("matrix", 4),
            "classifier.weight": ("head", 4),
            "classifier.bias": ("bias", 4),
        },
    ),
    "BERT, masked words and next sentence": (
        lambda: hf.BertForPreTraining(hf.BertConfig(**ENCODER)),
        3,
        {
            "bert.embeddings.word_embeddings.weight": ("tied head", 0),
            "cls.predictions.transform.dense.weight": ("matrix", 4),
            "cls.predictions.transform.LayerNorm.bias": ("norm", 4),
            "cls.seq_relationship.weight": ("head", 4),
        },
    ),
    "DistilBERT": (
        lambda: hf.DistilBertForSequenceClassification(
            hf.DistilBertConfig(vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=32, max_position_embeddings=20)
        ),
        3,
        {
            "distilbert.transformer.layer.2.ffn.lin1.weight": ("matrix", 3),
            "pre_classifier.weight": ("matrix", 4),
            "classifier.weight": ("head", 4),
        },
    ),
    "DeBERTa": (
        lambda: hf.DebertaV2ForSequenceClassification(
            hf.DebertaV2Config(**ENCODER, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8)
        ),
        3,
        {
            "deberta.encoder.rel_embeddings.weight": ("position", 0),
            "deberta.encoder.layer.1.attention.self.pos_key_proj.weight": ("matrix", 2),
            "classifier.weight": ("head", 4),
        },
    ),
    "XLNet": (
        lambda: hf.XLNetForSequenceClassification(
            hf.XLNetConfig(vocab_size=50, d_model=16, n_layer=2, n_head=2, d_inner=32)
        ),
        2,
        {
            "transformer.mask_emb": ("embedding", 0),
            "transformer.layer.1.rel_attn.q": ("matrix", 2),
            "transformer.layer.1.rel_attn.r_w_bias": ("bias", 2),
            "logits_proj.weight": ("head", 3),
        },
    ),
    "GPT-2": (
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2, n_positions=20, **_short(TOKENS))
        ),
        3,
        {
            "transformer.wte.weight": ("tied head", 0),
            "transformer.wpe.weight": ("position", 0),
            "transformer.h.2.attn.c_attn.weight": ("matrix", 3),
            "transformer.h.2.attn.c_attn.bias": ("bias", 3),
            "transformer.h.0.ln_1.bias": ("norm", 1),
            "transformer.ln_f.weight": ("norm", 4),
        },
    ),
    "OPT": (
        _opt,
        2,
        {
            "model.decoder.embed_tokens.weight": ("tied head", 0),
            "model.decoder.embed_positions.weight": ("position", 0),
            "model.decoder.final_layer_norm.weight": ("norm", 3),  # made before the layers
            "model.decoder.layers.1.final_layer_norm.weight": ("norm", 2),
        },
    ),
    "Llama": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**DECODER)),
        3,
        {
            "model.embed_tokens.weight": ("embedding", 0),
            "model.layers.2.self_attn.k_proj.weight": ("matrix", 3),
            "model.layers.2.input_layernorm.weight": ("norm", 3),
            "model.norm.weight": ("norm", 4),
            "lm_head.weight": ("head", 4),
        },
    ),
    "Llama, tied": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**DECODER, tie_word_embeddings=True)),
        3,
        {"model.embed_tokens.weight": ("tied head", 0), "model.norm.weight": ("norm", 4)},
    ),
    "Mixtral": (
        lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**DECODER, num_local_experts=4)),
        3,
        {
            "model.layers.1.mlp.gate.weight": ("matrix", 2),
            "model.layers.1.mlp.experts.gate_up_proj": ("matrix", 2),
            "lm_head.weight": ("head", 4),
        },
    ),
    "Mamba": (
        lambda: hf.MambaForCausalLM(
            hf.MambaConfig(vocab_size=50, hidden_size=16, state_size=4, num_hidden_layers=2, time_step_rank=4)
        ),
        2,
        {
            "backbone.embeddings.weight": ("tied head", 0),
            "backbone.layers.1.mixer.A_log": ("scalar", 2),
            "backbone.layers.1.mixer.D": ("scalar", 2),
            "backbone.layers.1.mixer.conv1d.weight": ("convolution", 2),
            "backbone.layers.1.mixer.in_proj.weight": ("matrix", 2),
            "backbone.norm_f.weight": ("norm", 3),
        },
    ),
    "T5": (
        _t5,
        5,
        {
            "shared.weight": ("tied head", 0),
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": ("position", 1),
            "encoder.block.1.layer.1.DenseReluDense.wi.weight": ("matrix", 2),
            "encoder.final_layer_norm.weight": ("norm", 3),  # between the stacks: of the block after it
            "decoder.block.0.layer.1.EncDecAttention.q.weight": ("matrix", 3),
            "decoder.block.2.layer.2.layer_norm.weight": ("norm", 5),
            "decoder.final_layer_norm.weight": ("norm", 6),
        },
    ),
    "BART": (
        lambda: hf.BartForConditionalGeneration(hf.BartConfig(**TWO_STACKS, max_position_embeddings=20)),
        5,
        {
            "model.shared.weight": ("tied head", 0),
            "model.encoder.embed_positions.weight": ("position", 0),
            "model.encoder.layernorm_embedding.weight": ("norm", 0),  # made after the layers
            "model.decoder.layernorm_embedding.bias": ("norm", 0),
            "model.decoder.layers.0.encoder_attn.q_proj.weight": ("matrix", 3),
        },
    ),
    "Whisper": (
        lambda: hf.WhisperForConditionalGeneration(
            hf.WhisperConfig(**TWO_STACKS, max_source_positions=30, max_target_positions=20)
        ),
        5,
        {
            "model.encoder.conv1.weight": ("convolution", 0),
            "model.encoder.embed_positions.weight": ("position", 0),
            "model.encoder.layers.1.self_attn.q_proj.weight": ("matrix", 2),
            "model.decoder.embed_tokens.weight": ("tied head", 0),
            "model.decoder.embed_positions.weight": ("position", 0),
            "model.decoder.layer_norm.weight": ("norm", 6),
        },
    ),
    "MusicGen": (
        _musicgen,
        2,
        {
            "model.decoder.embed_tokens.1.weight": ("embedding", 0),
            "lm_heads.0.weight": ("head", 3),
            "lm_heads.1.weight": ("head", 3),
        },
    ),
    "wav2vec 2.0": (
        _wav2vec2,
        5,
        {
            "wav2vec2.masked_spec_embed": ("embedding", 0),
            "wav2vec2.feature_extractor.conv_layers.0.conv.weight": ("convolution", 1),
            "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0": ("scalar", 3),
            "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1": ("convolution", 3),
            "wav2vec2.encoder.layers.2.attention.k_proj.weight": ("matrix", 5),
            "lm_head.weight": ("head", 6),
        },
    ),
    "ViT": (
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=5)),
        3,
        {
            "vit.embeddings.cls_token": ("embedding", 0),
            "vit.embeddings.position_embeddings": ("position", 0),
            "vit.embeddings.patch_embeddings.projection.weight": ("convolution", 0),
            "vit.layers.2.layernorm_before.bias": ("norm", 3),
            "vit.layers.2.mlp.fc1.weight": ("matrix", 3),
            "vit.layernorm.weight": ("norm", 4),
            "classifier.weight": ("head", 4),
        },
    ),
    "Swin": (
        lambda: hf.SwinForImageClassification(
            hf.SwinConfig(embed_dim=16, depths=[2, 2], num_heads=[2, 2], image_size=32, window_size=4, num_labels=3)
        ),
        4,
        {
            "swin.encoder.layers.0.downsample.reduction.weight": ("matrix", 3),
            "swin.encoder.layers.1.blocks.1.mlp.fc1.weight": ("matrix", 4),
            "classifier.weight": ("head", 5),
        },
    ),
    "ConvNeXt": (
        lambda: hf.ConvNextForImageClassification(
            hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 2], num_stages=2, num_labels=3)
        ),
        3,
        {
            "convnext.embeddings.patch_embeddings.weight": ("convolution", 0),
            "convnext.encoder.stages.0.layers.0.layer_scale_parameter": ("scalar", 1),
            "convnext.encoder.stages.1.downsampling_layer.1.weight": ("convolution", 2),
            "convnext.encoder.stages.1.layers.1.pwconv1.weight": ("matrix", 3),
            "classifier.weight": ("head", 4),
        },
    ),
    "ResNet": (
        lambda: _resnet("basic"),
        3,
        {
            "resnet.embedder.embedder.convolution.weight": ("convolution", 0),
            "resnet.encoder.stages.0.layers.0.layer.1.convolution.weight": ("convolution", 1),
            "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight": ("convolution", 2),
            "resnet.encoder.stages.1.layers.1.layer.1.normalization.bias": ("norm", 3),
            "classifier.1.weight": ("head", 4),
        },
    ),
    "ResNet, bottlenecks": (
        lambda: _resnet("bottleneck"),
        3,
        {"resnet.encoder.stages.1.layers.1.layer.2.convolution.weight": ("convolution", 3)},
    ),
    "SegFormer": (
        _segformer,
        3,
        {
            "segformer.stages.1.blocks.1.layernorm_after.weight": ("norm", 3),
            "decode_head.linear_projections.0.proj.weight": ("matrix", 4),
            "decode_head.classifier.weight": ("head", 4),
        },
    ),
    "DETR": (
        _detr,
        5,  # the two of the backbone are frozen, as DETR's configuration has it
        {
            "model.query_position_embeddings.weight": ("position", 0),
            "model.decoder.layers.2.encoder_attn.q_proj.weight": ("matrix", 5),
            "class_labels_classifier.weight": ("head", 6),
            "bbox_predictor.layers.0.weight": ("matrix", 6),
            "bbox_predictor.layers.2.weight": ("head", 6),
        },
    ),
    "CLIP": (
        _clip,
        3,  # each of the two towers has three
        {
            "logit_scale": ("scalar", 0),
            "text_model.embeddings.token_embedding.weight": ("embedding", 0),
            "text_model.embeddings.position_embedding.weight": ("position", 0),
            "vision_model.embeddings.class_embedding": ("embedding", 0),
            "vision_model.embeddings.position_embedding.weight": ("position", 0),
            "text_model.encoder.layers.2.mlp.fc1.weight": ("matrix", 3),
            "vision_model.encoder.layers.0.mlp.fc1.weight": ("matrix", 1),
            "text_projection.weight": ("head", 4),
            "visual_projection.weight": ("head", 4),
        },
    ),
}
