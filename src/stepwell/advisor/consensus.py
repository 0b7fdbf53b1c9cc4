"""What published configurations agree on, per situation: a table whose first fitting line is the family's consensus.

The lines say in data what section "per family" of the collection of published facts says in words; each has its source.
A line is blended with the nearest published configurations as if it were one more neighbor (see `blend`).
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass

from stepwell.advisor.names import read_task
from stepwell.advisor.situation import Situation


@dataclass(frozen=True, kw_only=True)
class Line:
    """The consensus of one situation. Conditions that are empty hold for every training.

    Args:
        name: the situation in words.
        family, task, regime, architecture: allowed values, divided by spaces; for tasks, any of these words occurs.
        words: a regular expression on the name of the model and its architecture.
        data: a regular expression on the name of the data.
        batch: at least this many samples per update, if above 0; at most, if below.
        params: at least this many parameters.
        norm: False for models without batch norm.
        optimizer: the published name of the optimizer.
        lr, per: the learning rate at this batch size, in samples; per None if published rates do not depend on it.
        span: the lowest and the highest published rate at `per`.
        decay: form and size of the weight decay. schedule: its kind. warmup: in words.
        caution: what speaks against the line.
    """

    name: str
    family: str
    optimizer: str
    lr: float | None
    source: str
    task: str = ""
    regime: str = ""
    architecture: str = ""
    backbone: str = ""
    words: str = ""
    data: str = ""
    batch: float = 0
    params: float = 0
    norm: bool = True
    per: float | None = None
    span: tuple[float, float] | None = None
    decay: tuple[str, float] | None = None
    schedule: str | None = None
    warmup: str = ""
    clip: float | None = None
    betas: tuple[float | None, float | None] = (None, None)
    eps: float | None = None
    no_decay: tuple[str, ...] | None = None
    layer_decay: float | None = None
    ema: float | None = None
    nesterov: bool | None = None
    caution: str = ""

    def fits(self, one: Situation) -> bool:
        """Whether the situation meets every condition of the line."""
        if one.family not in self.family.split() or (self.regime and one.regime not in self.regime.split()):
            return False
        task = f"{one.task} {read_task(one.task)}".lower().replace("_", " ")
        if self.task and not any(word.replace("_", " ") in task for word in self.task.split()):
            return False
        if self.architecture and one.architecture not in self.architecture.split():
            return False
        if self.backbone and one.backbone != self.backbone:
            return False
        if self.words and not re.search(self.words, f"{one.model} {one.architecture}".lower()):
            return False
        if self.data and not re.search(self.data, one.dataset.lower()):
            return False
        batch = one.batch_in_samples
        if self.batch > 0 and not (batch and batch >= self.batch):
            return False
        if self.batch < 0 and not (batch and batch <= -self.batch):
            return False
        return (one.params or 0) >= self.params and (self.norm or one.batch_norm is False)


def line_of(one: Situation) -> Line | None:
    """The first line that fits, or None."""
    return next((line for line in LINES if line.fits(one)), None)


_NORMS = ("norm", "bias", "scalar")
_VIT = ("norm", "bias", "scalar", "position")
_SECTION = "consensus of the published configurations of this family"

# The language models: the rate falls with the size of the model, and not strictly (OLMo-2 32B has 6e-4).
LM_RATES: tuple[tuple[float, float], ...] = (
    (125e6, 6e-4), (1.3e9, 3e-4), (7e9, 3e-4), (70e9, 1.5e-4), (405e9, 8e-5),
)  # fmt: skip

LINES: tuple[Line, ...] = (
    # image classification
    Line(name="fine-tuning a vision transformer", family="cnn_classification vit_supervised ssl_vision",
         regime="fine_tune", architecture="vit masked_image contrastive_image", task="image_classification",
         optimizer="AdamW", lr=2e-3, per=1024,
         span=(5e-4, 5e-3), decay=("decoupled", 0.05), schedule="cosine", warmup="5 epochs", betas=(0.9, 0.999),
         no_decay=_VIT, layer_decay=0.65, source=f"{_SECTION}: BEiT, MAE, MoCo v3 fine-tuning",
         caution="without layer-wise decay of the rate use 5e-4 or less"),
    Line(name="fine-tuning a transformer on fine-grained classes", family="cnn_classification vit_supervised",
         regime="fine_tune", architecture="vit", optimizer="AdamW", lr=5e-6, per=64, span=(2e-6, 1e-4),
         decay=("decoupled", 5e-4), schedule="cosine", warmup="5 epochs", no_decay=_VIT,
         source=f"{_SECTION}: Swin-L on CUB"),
    Line(name="fine-tuning a convolutional network", family="cnn_classification large_batch", regime="fine_tune",
         optimizer="SGD", lr=1e-2, per=64, span=(1e-3, 3e-2), decay=("l2", 5e-4), schedule="cosine", warmup="5 epochs",
         nesterov=True, source=f"{_SECTION}: ResNet-50 on CUB"),
    Line(name="MobileNet or EfficientNet", family="cnn_classification", architecture="mobile", optimizer="RMSprop",
         lr=0.016, per=256, span=(0.012, 0.02), decay=("l2", 1e-5), schedule="stairs", warmup="5 epochs", eps=1e-3,
         ema=0.9999, source=f"{_SECTION}: MobileNetV3, MixNet, EfficientNetV2",
         caution="eps 1e-3 is a tuned value here (0.0316 for MobileNetV3); 1e-8 does not replace it"),
    Line(name="ConvNeXt and its like", family="cnn_classification", architecture="modern_cnn", optimizer="AdamW",
         lr=4e-3, per=4096, span=(2e-3, 6e-3), decay=("decoupled", 0.05), schedule="cosine", warmup="20 epochs",
         betas=(0.9, 0.999), no_decay=_NORMS, ema=0.9999, source=f"{_SECTION}: ConvNeXt-T, ConvNeXt-B"),
    Line(name="a convolutional network without batch norm", family="cnn_classification", norm=False, optimizer="SGD",
         lr=0.01, per=256, span=(0.005, 0.02), decay=("l2", 1e-4), schedule="stairs",
         source=f"{_SECTION}: VGG-16 has 0.01, VGG-16-BN 0.1 with the same recipe"),
    Line(name="a residual network on CIFAR", family="cnn_classification", data="cifar|svhn|mnist",
         optimizer="SGD", lr=0.1, per=128, span=(0.05, 0.2), decay=("l2", 5e-4), schedule="stairs", nesterov=True,
         source=f"{_SECTION}: ResNet on CIFAR (decay 1e-4 for CIFAR-10, 5e-4 for CIFAR-100)"),
    Line(name="a residual network on ImageNet", family="cnn_classification", optimizer="SGD", lr=0.1, per=256,
         span=(0.05, 0.2), decay=("l2", 1e-4), schedule="cosine", warmup="5 epochs",
         source=f"{_SECTION}: ResNet, ResNeXt, RepVGG",
         caution="newer recipes reach more with other settings: LAMB 5e-3 and BCE (RSB), 600 epochs with decay 2e-5"),
    Line(name="a vision transformer from scratch", family="vit_supervised", optimizer="AdamW", lr=1e-3, per=1024,
         span=(5e-4, 2e-3), decay=("decoupled", 0.05), schedule="cosine", warmup="20 epochs", clip=5.0,
         betas=(0.9, 0.999), no_decay=_VIT, source=f"{_SECTION}: DeiT, Swin, Conformer",
         caution="plain ViT and MAE-style training have decay 0.3 and clip at 1"),
    # self-supervised vision
    Line(name="a linear probe at a large batch", family="ssl_vision", regime="linear_probe", batch=4096,
         optimizer="LARS", lr=6.4, per=16384, span=(1.6, 12), decay=("none", 0.0), schedule="cosine",
         warmup="10 epochs", source=f"{_SECTION}: MAE linear probe"),
    Line(name="a linear probe", family="ssl_vision", regime="linear_probe", optimizer="SGD", lr=30, span=(0.1, 60),
         decay=("none", 0.0), schedule="stairs", source=f"{_SECTION}: MoCo v2 linear probe",
         caution="only the last layer trains: the rate has nothing to do with that of the network"),
    Line(name="masked images or a transformer backbone", family="ssl_vision", regime="from_scratch",
         backbone="vit",
         optimizer="AdamW", lr=2.4e-3, per=4096, span=(8e-4, 4e-3), decay=("decoupled", 0.05), schedule="cosine",
         warmup="40 epochs", betas=(0.9, 0.95), no_decay=_NORMS, source=f"{_SECTION}: MAE, SimMIM, MoCo v3 ViT",
         caution="the papers give 1.5e-4 per 256 samples and scale linearly; from 4096 down the square root gives "
                 "more"),
    Line(name="contrastive training of a ResNet at a large batch", family="ssl_vision", regime="from_scratch",
         batch=1024, optimizer="LARS", lr=0.4, per=256, span=(0.2, 0.6), decay=("l2", 1e-6), schedule="cosine",
         warmup="10 epochs", no_decay=_NORMS, source=f"{_SECTION}: MoCo v3 ResNet-50",
         caution="bias and batch norm are exempt from decay and from LARS's trust ratio"),
    Line(name="contrastive training of a ResNet", family="ssl_vision", regime="from_scratch", optimizer="SGD", lr=0.05,
         per=256, span=(0.015, 0.1), decay=("l2", 1e-4), schedule="cosine", source=f"{_SECTION}: SimSiam"),
    # image and text
    Line(name="fine-tuning image and text towers", family="contrastive_multimodal", regime="fine_tune",
         optimizer="AdamW", lr=1e-5, span=(1e-6, 5e-5), decay=("decoupled", 0.1), schedule="cosine",
         warmup="1000 steps", clip=1.0, no_decay=_NORMS, source=f"{_SECTION}: CoCa fine-tuning"),
    Line(name="contrastive training of image and text", family="contrastive_multimodal", optimizer="AdamW", lr=5e-4,
         span=(2e-4, 1e-3), schedule="cosine", warmup="2000 steps", no_decay=_NORMS, source=f"{_SECTION}: OpenCLIP"),
    # detection and segmentation
    Line(name="detection or segmentation with a transformer", family="detection_segmentation",
         words=r"detr|former|vit|swin|dino|(?<![a-z])(setr|sam|unetr|mask2)", optimizer="AdamW", lr=1e-4,
         span=(5e-5, 2e-4), decay=("decoupled", 1e-4), schedule="stairs", clip=0.1,
         source=f"{_SECTION}: DETR (SegFormer 6e-5 with head times 10)",
         caution="the pretrained backbone has a tenth of the rate"),
    Line(name="semantic segmentation", family="detection_segmentation", task="semantic", optimizer="SGD", lr=0.01,
         per=16, span=(1e-3, 0.02), decay=("l2", 1e-4), schedule="poly", source=f"{_SECTION}: FCN, PSPNet, DeepLab"),
    Line(name="detection with a backbone without batch norm", family="detection_segmentation", norm=False,
         optimizer="SGD", lr=0.002, per=16, span=(1e-3, 5e-3), decay=("l2", 5e-4), schedule="stairs",
         source=f"{_SECTION}: 10 times smaller rates without batch norm; SSD300-VGG16"),
    Line(name="detection with a convolutional backbone", family="detection_segmentation", optimizer="SGD", lr=0.02,
         per=16, span=(0.0025, 0.04), decay=("l2", 1e-4), schedule="stairs", warmup="1000 steps",
         source=f"{_SECTION}: Mask R-CNN, RetinaNet, Faster R-CNN"),
    # language models
    Line(name="a convolutional or adaptive-input sequence model of fairseq", family="lm_pretraining translation",
         words=r"conv.?s2s|gated.?conv|fconv|gcnn|adaptive.?input"
               r"|conv.?seq", optimizer="NAG", lr=0.75, span=(0.25, 1.0),
         schedule="plateau", clip=0.1, source=f"{_SECTION}: GCNN, ConvS2S, adaptive input"),
    Line(name="pretraining a masked language model", family="lm_pretraining", task="masked mlm", optimizer="AdamW",
         lr=5e-4, per=2048, span=(2e-4, 7e-4), decay=("decoupled", 0.01), schedule="linear", warmup="10000 steps",
         betas=(0.9, 0.98), eps=1e-6, clip=0.0, source=f"{_SECTION}: RoBERTa (256: 1e-4, 2048: 5e-4, 8192: 7e-4)"),
    Line(name="continued pretraining", family="lm_pretraining", regime="fine_tune", optimizer="AdamW", lr=3e-5,
         span=(1e-5, 3e-4), decay=("decoupled", 0.1), schedule="linear", betas=(0.9, 0.95), clip=1.0,
         source=f"{_SECTION}: OLMo-2 annealing, DeepSeek-V3 (MLPerf)"),
    Line(name="pretraining a language model", family="lm_pretraining", optimizer="AdamW", lr=6e-4, span=(8e-5, 1e-3),
         decay=("decoupled", 0.1), schedule="cosine", warmup="2000 steps", clip=1.0, betas=(0.9, 0.95),
         source=f"{_SECTION}: GPT-3, LLaMA, OLMo, nanoGPT; rate by size of the model",
         caution="the rate is not a function of size alone: OLMo-2 32B has 6e-4, and its batch matters"),
    Line(name="an LSTM language model", family="rnn_lm", optimizer="SGD", lr=30, span=(10, 30), decay=("l2", 1.2e-6),
         schedule="constant", clip=0.25, source=f"{_SECTION}: AWD-LSTM",
         caution="the rate has no meaning without the clip: every step is clipped"),
    # fine-tuning of language models
    Line(name="a low-rank adapter", family="fine_tuning", words=r"lora|dora|adapter|peft", optimizer="AdamW", lr=2e-4,
         span=(1e-4, 5e-4), decay=("none", 0.0), schedule="constant", clip=0.3, source=f"{_SECTION}: LoRA, QLoRA"),
    Line(name="preference optimization", family="fine_tuning", task="preference dpo", optimizer="AdamW", lr=5e-7,
         span=(1e-7, 5e-6), decay=("none", 0.0), schedule="cosine", warmup="10 %", source=f"{_SECTION}: Zephyr DPO"),
    Line(name="T5 with Adafactor", family="fine_tuning", words=r"(?<![a-z])m?t5", optimizer="Adafactor", lr=1e-3,
         span=(1e-4, 1e-3), decay=("none", 0.0), schedule="constant", source="transformers documentation"),
    Line(name="fine-tuning a recurrent language model", family="fine_tuning", architecture="recurrent",
         optimizer="Adam", lr=1e-2, span=(1e-3, 2e-2), schedule="one_cycle", layer_decay=1 / 2.6,
         source="ULMFiT as in fastai's tutorial"),
    Line(name="fine-tuning a network for images", family="fine_tuning", task="image multilabel detection segmentation",
         optimizer="AdamW", lr=1e-4, span=(1e-5, 5e-4), decay=("decoupled", 0.01), schedule="cosine",
         source=f"{_SECTION}: timm ResNet-50 multilabel"),
    Line(name="fine-tuning a language model", family="fine_tuning", optimizer="AdamW", lr=2e-5, span=(1e-5, 5e-5),
         decay=("decoupled", 0.1), schedule="linear", warmup="6 %", betas=(0.9, 0.98), eps=1e-6,
         source=f"{_SECTION}: RoBERTa on GLUE, Alpaca, Qwen3 SFT"),
    # reinforcement learning
    Line(name="reinforcement learning of a language model", family="rl", task="llm", optimizer="AdamW", lr=1e-6,
         per=256, span=(5e-7, 5e-6), decay=("none", 0.0), schedule="constant", clip=0.125,
         source=f"{_SECTION}: GRPO reference of MLPerf"),
    Line(name="A2C and the DQN of Nature", family="rl", words=r"a2c|a3c|nature|impala|acktr", optimizer="RMSprop",
         lr=5e-4, span=(2.5e-4, 1e-3), decay=("none", 0.0), schedule="constant", eps=1e-5, clip=0.5,
         source=f"{_SECTION}: A2C, DQN of Nature"),
    Line(name="DQN on Atari", family="rl", words=r"dqn|rainbow|c51|iqn", data="atari", optimizer="Adam", lr=1e-4,
         span=(5e-5, 2.5e-4), decay=("none", 0.0), schedule="constant", clip=10.0, source=f"{_SECTION}: DQN Atari"),
    Line(name="off-policy learning of values", family="rl", words=r"dqn|rainbow|c51|iqn|sac|td3|ddpg|tqc",
         optimizer="Adam", lr=5e-4, span=(1e-4, 2e-3), decay=("none", 0.0), schedule="constant", clip=10.0,
         source=f"{_SECTION}: SAC 3e-4, TD3 1e-3, DQN 1e-4 to 2.3e-3"),
    Line(name="on-policy learning", family="rl", optimizer="Adam", lr=3e-4, span=(1e-4, 1e-3), decay=("none", 0.0),
         schedule="constant", eps=1e-5, clip=0.5, source=f"{_SECTION}: PPO",
         caution="tuned rates span 2e-5 to 2.3e-3 over environments"),
    # speech and audio
    Line(name="source separation", family="speech_audio", task="separation restoration enhancement", optimizer="Adam",
         lr=1e-4, span=(5e-5, 5e-4), decay=("none", 0.0), schedule="plateau", ema=0.999, clip=0.0,
         source=f"{_SECTION}: MDX23C, BS-RoFormer, SCNet"),
    Line(name="fine-tuning a speech model", family="speech_audio", regime="fine_tune", optimizer="AdamW", lr=2e-5,
         span=(1e-5, 1e-4), schedule="hold", betas=(0.9, 0.98), source=f"{_SECTION}: HuBERT, Whisper",
         caution="the encoder is frozen for the first 10,000 updates"),
    Line(name="self-supervised speech", family="speech_audio", task="self pretrain", optimizer="AdamW", lr=5e-4,
         span=(5e-4, 5e-3), decay=("decoupled", 0.01), schedule="linear", warmup="32000 steps", betas=(0.9, 0.98),
         eps=1e-6, source=f"{_SECTION}: wav2vec 2.0, data2vec"),
    Line(name="speech recognition from scratch", family="speech_audio", optimizer="Adam", lr=1e-3, span=(5e-4, 2e-3),
         schedule="inverse_sqrt", warmup="10000 steps", betas=(0.9, 0.98), clip=10.0, source=f"{_SECTION}: S2T"),
    Line(name="translation with a transformer", family="translation", optimizer="Adam", lr=5e-4, span=(3e-4, 1e-3),
         decay=("none", 0.0), schedule="inverse_sqrt", warmup="4000 steps", betas=(0.9, 0.98), eps=1e-9, clip=0.0,
         source=f"{_SECTION}: Transformer base and big (1e-3 with a batch 16 times larger)"),
    # generative models
    Line(name="a Wasserstein GAN with clipped weights", family="gan", words=r"wgan(?!.?gp)", optimizer="RMSprop",
         lr=5e-5, span=(2e-5, 1e-4), decay=("none", 0.0), schedule="constant", source=f"{_SECTION}: WGAN"),
    Line(name="StyleGAN and its like", family="gan", words=r"style", optimizer="Adam", lr=2e-3, span=(1e-3, 3e-3),
         decay=("none", 0.0), schedule="constant", betas=(0.0, 0.99), ema=0.999, source=f"{_SECTION}: up to 2e-3",
         caution="its lazy regularization rescales lr and beta2; R1's weight grows with the squared resolution"),
    Line(name="a GAN with spectral norm or at scale", family="gan", words=r"big|sagan|sngan|proj|gp|self.?att",
         optimizer="Adam", lr=2e-4, span=(1e-4, 2e-3), decay=("none", 0.0), schedule="constant", betas=(0.0, 0.99),
         ema=0.999, source=f"{_SECTION}: BigGAN, SAGAN, WGAN-GP"),
    Line(name="a GAN", family="gan", optimizer="Adam", lr=2e-4, span=(1e-4, 4e-4), decay=("none", 0.0),
         schedule="constant", betas=(0.5, 0.999), source=f"{_SECTION}: DCGAN, pix2pix, CycleGAN"),
    Line(name="a diffusion model", family="diffusion", optimizer="Adam", lr=1.4e-4, span=(1e-4, 3e-4),
         decay=("none", 0.0), schedule="constant", ema=0.9999, warmup="0 to 5000 steps", clip=1.0,
         source=f"{_SECTION}: DDPM, EDM, DiT", caution="DiT trains without any warmup"),
    Line(name="image restoration", family="image_restoration", optimizer="Adam", lr=2e-4, span=(1e-4, 4e-4),
         decay=("none", 0.0), schedule="stairs", betas=(0.9, 0.999), source="EDSR, SwinIR"),
    # graphs, recommendation, tables, inverse problems
    Line(name="self-supervised training on a graph", family="gnn", task="self", optimizer="AdamW", lr=5e-4,
         span=(1e-5, 1e-3), decay=("decoupled", 1e-5), schedule="cosine", source="BGRL"),
    Line(name="graph attention on a citation network", family="gnn", words=r"gat", task="node", optimizer="Adam",
         lr=5e-3, span=(1e-3, 1e-2), decay=("l2", 5e-4), schedule="constant", source=f"{_SECTION}: GAT"),
    Line(name="node classification", family="gnn", task="node", optimizer="Adam", lr=0.01, span=(1e-3, 1e-2),
         decay=("l2", 5e-4), schedule="constant", source=f"{_SECTION}: GCN, SGC",
         caution="plain L2 with Adam is the published recipe here, and works"),
    Line(name="classification of graphs", family="gnn", optimizer="Adam", lr=3e-3, span=(1e-3, 1e-2),
         decay=("none", 0.0), schedule="plateau", source=f"{_SECTION}: GIN, PNA, GraphGPS"),
    Line(name="DLRM with cross layers", family="recsys", words=r"dcn", batch=8192, optimizer="Adagrad", lr=4e-3,
         span=(1e-3, 1e-2), decay=("none", 0.0), source=f"{_SECTION}: DLRM-DCNv2, 32k to 160k samples"),
    Line(name="DLRM at a large batch", family="recsys", words=r"dlrm", batch=8192, optimizer="SGD", lr=18,
         per=32768, span=(10, 30), schedule="poly", warmup="8000 steps", source=f"{_SECTION}: DLRM",
         caution="DLRM-DCNv2 uses Adagrad 0.004, independent of the batch size"),
    Line(name="DLRM", family="recsys", words=r"dlrm", optimizer="SGD", lr=0.1, per=128, span=(0.01, 1),
         source=f"{_SECTION}: DLRM", caution="sparse embeddings: SparseAdam or Adagrad"),
    Line(name="recommendation", family="recsys", optimizer="Adam", lr=5e-4, span=(1e-4, 1e-3), decay=("none", 0.0),
         source=f"{_SECTION}: LightGCN, NGCF"),
    Line(name="tables and time series", family="tabular_timeseries", optimizer="Adam", lr=4e-4, span=(1e-4, 2e-2),
         source="PatchTST, FT-Transformer"),
    Line(name="style transfer", family="scientific_inverse", task="style", optimizer="L-BFGS", lr=1.0,
         source="neural-style"),
    Line(name="a radiance field", family="scientific_inverse", architecture="radiance", optimizer="Adam", lr=5e-4,
         span=(5e-4, 1e-2), decay=("none", 0.0), schedule="exponential", source=f"{_SECTION}: NeRF"),
    Line(name="a physics-informed network", family="scientific_inverse", optimizer="Adam", lr=1e-3, span=(5e-4, 5e-3),
         decay=("none", 0.0), schedule="constant", source=f"{_SECTION}: Adam for 15,000 steps, then L-BFGS"),
    # large batches and tuned targets
    Line(name="images at a large batch", family="large_batch", task="image", optimizer="LARS", lr=10, per=4096,
         span=(7, 25), decay=("l2", 1e-4), schedule="poly", warmup="5 epochs", source="ResNet-50 of MLPerf"),
    Line(name="a language model at a large batch", family="large_batch", optimizer="LAMB", lr=2.4e-3, per=4096,
         span=(2e-3, 4e-3), decay=("decoupled", 0.01), schedule="poly", eps=1e-6, source="BERT of MLPerf"),
    Line(name="a convolutional network tuned to a target", family="algoperf_target", architecture="cnn",
         optimizer="SGD", lr=4.0, per=1024, span=(0.5, 5), schedule="linear", decay=("l2", 5e-6), warmup="5 %",
         source="AlgoPerf's target for ResNet-50: heavy-ball"),
    Line(name="U-Net or a graph network tuned to a target", family="algoperf_target",
         architecture="segmenter graph", optimizer="NAG", lr=0.03, span=(0.01, 1), schedule="linear", warmup="10 %",
         source="AlgoPerf's targets for fastMRI and OGBG: Nesterov momentum"),
    Line(name="tuned to a target", family="algoperf_target", optimizer="NAdamW", lr=1.5e-3, span=(8e-4, 4e-3),
         schedule="cosine", warmup="2 %", decay=("decoupled", 0.05), source="AlgoPerf's other targets"),
    # optimizers by name
    Line(name="Muon", family="new_optimizer", words="muon|dion", optimizer="Muon", lr=0.02, span=(0.01, 0.03),
         decay=("decoupled", 0.01), schedule="hold", source="microsoft/dion, nanochat"),
    Line(name="Lion", family="new_optimizer", words="lion", optimizer="Lion", lr=1e-4, span=(3e-5, 3e-4),
         decay=("decoupled", 0.1), schedule="cosine", betas=(0.95, 0.98), source="google/automl"),
    Line(name="schedule-free", family="new_optimizer", words="schedule.?free", optimizer="ScheduleFreeAdamW",
         lr=2.5e-3, span=(1e-3, 1e-2), decay=("decoupled", 0.08), schedule="constant", warmup="2 %",
         source="facebookresearch/schedule_free"),
    Line(name="SOAP", family="new_optimizer", words="soap", optimizer="SOAP", lr=3e-3, span=(1e-3, 3e-3),
         decay=("decoupled", 0.01), schedule="cosine", betas=(0.95, 0.95), source="nikhilvyas/SOAP"),
)  # fmt: skip


def lr_of(line: Line, one: Situation) -> float | None:
    """The rate of a line, by size of the model where the line says so; not yet brought to the batch size."""
    if line.lr is None or line.name != "pretraining a language model" or not one.params:
        return line.lr
    points = [(math.log(size), math.log(rate)) for size, rate in LM_RATES]
    at = min(max(math.log(one.params), points[0][0]), points[-1][0])
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= at <= x1:
            return math.exp(y0 + (y1 - y0) * (at - x0) / (x1 - x0))
    return line.lr
