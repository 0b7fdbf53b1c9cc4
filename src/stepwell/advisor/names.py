"""What a free text says about a training: kind of model, task, data and regime, from general lists of words.

>>> read_model("ViT-B/16").architecture, read_model("resnet50").architecture, read_model("ppo on atari").family
('vit', 'cnn', 'rl')
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FAMILIES = (
    "algoperf_target", "cnn_classification", "contrastive_multimodal", "detection_segmentation", "diffusion",
    "fine_tuning", "gan", "gnn", "image_restoration", "large_batch", "lm_pretraining", "new_optimizer", "recsys", "rl",
    "rnn_lm", "scientific_inverse", "speech_audio", "ssl_vision", "tabular_timeseries", "translation", "vit_supervised",
)  # fmt: skip
REGIMES = ("fine_tune", "from_scratch", "linear_probe", "per_instance_fit", "rl")

# architecture -> words; the first line whose words are found wins, so the particular stands before the general
_ARCHITECTURES: tuple[tuple[str, str], ...] = (
    ("pinn", r"pinn|physics.?informed|deeponet|fno|neural.?operator"),
    ("radiance", r"nerf|gaussian.?splat\w*|3dgs|instant.?ngp|siren|plenoxels?"),
    ("style_transfer", r"neural.?style|style.?transfer"),
    ("lora", r"q?lora|dora|adalora|peft|adapters?"),
    ("graph", r"gcn\w*|gats?(?:v2)?|gat|graphsage|sage|gin|gine|graph\w*|gnn|pna|sgc|appnp|schnet|dimenet|egnn|mpnn"
              r"|bgrl|unimp|deepergcn|revgnn|node2vec|metapath2vec|pointnet|dgcnn|rgcn|r.?gat|han|hgt|cluster.?gcn|gcnii"
              r"|jknet|nequip|mace|dgi|graphmae|arma"),
    ("policy", r"ppo\d?|dqn|ddqn|c51|qr.?dqn|rainbow|iqn|sac|td3|ddpg|tqc|a2c|a3c|acktr|acer|trpo|impala|reinforce|vpg"
               r"|grpo|dreamer\w*|muzero|mappo|qmix|ars|rlhf|r2d2|curl|drq"),
    ("gan", r"\w*gan\w*|pix2pix\w*|spade|sngan|srgan|esrgan|ggan|lsgan|stylegan\w*|munit|starGAN|hifi.?gan|generator"
            r"|discriminator"),
    ("diffusion", r"\w*diffusion\w*|ddpm\w*|ddim|iddpm|edm\d?|adm|ldm|dit|sit|u-?vit|flux|pixart|score.?sde|ncsn\w*"
                  r"|consistency|rectified|dreambooth|controlnet|imagen|denoising|sdxl|sd\d|textual.?inversion|glide"),
    ("contrastive", r"clip|openclip|open.?clip|siglip|coca|blip\d?|align|lit|imagebind|albef|flava|declip"),
    ("separation", r"\w*demucs\w*|mdx\w*|\w*roformer\w*|scnet|apollo|spleeter|conv.?tasnet|tasnet|sepformer|open.?unmix"
                   r"|dprnn|bandit|vocal\w*"),
    ("speech", r"wav2vec\w*|hubert|wavlm|conformer|whisper|tacotron\w*|deep.?speech\w*|s2t|speech\w*|asr|quartznet"
               r"|citrinet|squeezeformer|contextnet|rnn.?t|vits|fastspeech\w*|jasper|transducer|zipformer|wavenet"
               r"|hifigan|data2vec.*audio|audio\w*|ast|beats|paraformer|fastconformer|vall.?e|matcha"),
    ("detector", r"\w*r-?cnn|retinanet|yolo\w*|detr|\w*detr|ssd\d*|fcos|efficientdet|centernet|cornernet|atss|vitdet"
                 r"|cascade|faster|mask|sparse.?rcnn|dino.?det|rtmdet|nanodet"),
    ("segmenter", r"fcn|pspnet|deeplab\w*|segformer|\w*unet\w*|u-?net|nnu-?net|upernet|maskformer|mask2former|ocrnet"
                  r"|segnext|bisenet|pidnet|setr|sam|v-?net|fcn\d*|danet|ccnet|unetr|swinunetr|stdc|segmenter"),
    ("recommender", r"dlrm\w*|dcn\w*|deepfm|xdeepfm|wide.?(and|&).?deep|ngcf|lightgcn|ncf|neumf|sasrec|bert4rec|gru4rec"
                    r"|two.?tower|widedeep|autoint|din|dien|bpr|ultragcn|fm|ffm|mmoe|xdeep\w*|mf|tiger|hstu"),
    ("restorer", r"srcnn|edsr|swinir|rcan|rdn|restormer|nafnet|srresnet|msrresnet|basicvsr\w*|edvr|dncnn|ttsr|liif"
                 r"|hat|mirnet|uformer|drct|maxim|super.?resolution|tdan|iconvsr|mprnet|cain|flavr"),
    ("time_series", r"patchtst|informer|autoformer|fedformer|dlinear|nlinear|n.?beats|n.?hits|tft|itransformer|timesnet"
                    r"|deepar|timemixer|crossformer|chronos|moirai|timesfm|tcn|pyraformer|tsmixer|lstnet|etsformer"),
    ("tabular", r"ft.?transformer|tabnet|tabpfn|saint|node|rtdl|tabtransformer|tabr|mlp.?plr|tabm|gandalf|realmlp"),
    ("masked_lm", r"\w*bert\w*|electra|deberta\w*|xlnet|data2vec.text|ernie|longformer|bigbird|megatron.?bert|esm\w*"),
    ("seq2seq", r"m?t5\w*|flan|ul2|m?bart|pegasus|marian|nllb|m2m\w*|transformer.(base|big|iwslt|wmt|vaswani|ott)"
                r"|convs2s"
                r"|fconv|levenshtein\w*|dynamic.?conv|light.?conv|gnmt|seq2seq|nmt|lightconv|cmlm|nat|switch"
                r"|evolved|vaswani|prophetnet|madlad|mass"),
    ("recurrent", r"\w*lstm\w*|gru|rnn\w*|awd|ulmfit|elmo|qrnn|sru|mogrifier|mos"),
    ("masked_image", r"mae|simmim|beit\w*|maskfeat|milan|eva\d*|data2vec|mixmim|cae|ibot|i-?jepa|v-?jepa|spark|hiera"
                     r"|itpn|beitv2|videomae|peco|mvp|mfm"),
    ("contrastive_image", r"moco|simclr|byol|simsiam|swav|barlow\w*|vicreg|dino|dinov\d|densecl|nnclr|deepcluster|odc"
                          r"|relative.?loc|rotation.?pred|npid|pirl|msn|jigsaw|esvit|ressl"),
    ("causal_lm", r"\w*gpt\w*|\w*llama|olmo\w*|mistral|mixtral|pythia|bloom\w*|opt|falcon|gemma|qwen\w*|phi|mpt"
                  r"|deepseek"
                  r"|palm|stablelm|rwkv|mamba\w*|gopher|chinchilla|alpaca|vicuna|zephyr|lm|causal.?lm|moonlight|smollm\d?"
                  r"|baichuan|internlm|minicpm|yi|grok|kimi|nemotron|jamba|retnet|hyena|transformer.xl|megatron|jurassic"
                  r"|galactica|starcoder|code.?llama|santacoder|tulu|redpajama|openelm|amber|dclm|chatglm|glm|gptj|neox"
                  r"|command|granite|exaone|solar|orca|dolly|pleias|btlm|aya|codegen|lamda|gptneo|llm|cerebras"),
    ("vit", r"\w*vit|vit\w*|deit\w*|swin\w*|cait|xcit|pvt\w*|twins\w*|levit|mvit\w*|maxvit|coat\w*|cvt|t2t\w*|pit|tnt"
            r"|mlp.?mixer|mixer|g?res?mlp|gmlp|conformer|nest|crossvit|volo|focal|poolformer|metaformer|caformer|efficientformer"
            r"|vision.?transformer|vision.?gnn|vig|davit|tinyvit|vivit|timesformer|mobilevit|revvit|vmamba|edgevit|visformer"),
    ("modern_cnn", r"convnext\w*|replknet|van|hornet|edgenext|inceptionnext|convmixer|moganet|riformer|internimage|slak"
                   r"|unireplknet|fastvit|rdnet|starnet"),
    ("mobile", r"mobile\w*|efficientnet\w*|mixnet|mnasnet|ghostnet\w*|fbnet\w*|tinynet|lcnet|mobileone|tf.efficientnet"
               r"|hardcorenas|rexnet|nasnet\w*|pnasnet|amoebanet|spnasnet|proxyless\w*|atomnas|fairnas"),
    ("cnn", r"\w*resnet\w*|resnext\w*|wrn|densenet\w*|vgg\w*|alexnet|inception\w*|googlenet|repvgg|regnet\w*|res2net"
            r"|senet|seresnet|dla|hrnet|shufflenet\w*|squeezenet|lenet|cnn|convnet|airbench\w*|resnest|dpn|cspnet|cspresnet"
            r"|cspdarknet|nfnet|bit|xception|darknet\w*|vovnet|selecsls|pyramidnet|nasbench|resnetv2|simple.?net|r50|r101"
            r"|rsb|skresnet|ecaresnet|resnetrs|tresnet|csra|hornet|davidnet"),
    ("lm", r"transformer|attention|language.?model|nanochat|nanogpt|adaptive.?input|gated.?conv|gcnn"),
    ("mlp", r"mlp|perceptron|linear|logistic"),
)  # fmt: skip
_ARCHITECTURE = [(name, re.compile(rf"(?<![a-z])(?:{words})(?![a-z])")) for name, words in _ARCHITECTURES]

# task -> words found in a task's own text, in the words of recipes.json
TASKS: tuple[tuple[str, str], ...] = (
    ("linear probe", r"linear.?(prob\w*|eval\w*|classif\w*)"),
    ("preference optimization", r"preference|dpo|orpo|kto|rlhf.?dpo|reward.?model\w*"),
    ("LLM RL", r"llm.?rl|grpo|rlhf|rlvr|reasoning.?rl"),
    ("instruction tuning", r"instruct\w*|sft|supervised.?fine.?tun\w*|chat|alpaca"),
    ("image-text contrastive", r"(image|vision).?(and.?)?(text|language).*|zero.?shot|retrieval"),
    ("captioning", r"caption\w*|vqa|visual.?question.*"),
    ("masked_lm", r"masked.?(lm|language\w*)|mlm|replaced.?token.*"),
    ("mid-training", r"mid.?training|anneal\w*|continued.?pretrain\w*"),
    ("word LM", r"word.?(lm|language\w*)|char\w*.?(lm|language\w*)|char.?gpt"),
    ("translation", r"(machine.?)?translation|nmt|mt"),
    ("image translation", r"image.?(to.?image|translation)|style.?translation|paired.?translation|inpainting"),
    ("super resolution", r"super.?resolution|sr|denois\w*|deblur\w*|restoration|derain\w*|dehaz\w*"),
    ("audio restoration", r"audio.?(restoration|super.?resolution)|vocod\w*|bandwidth.?ext\w*"),
    ("music source separation", r"(music.?|speech.?|audio.?)?(source.?)?separation|speech.?enhancement"),
    ("asr", r"asr|speech.?(recognition|to.?text)|transcription|ctc|speech.?translation|keyword.*"),
    ("audio classification", r"(audio|sound|music).?(tagging|classification|event\w*.*)"
                             r"|speaker.?(recognition|verification)"),
    ("tts", r"tts|text.?to.?speech|speech.?synthesis|voice.*"),
    ("image_generation", r"(image|text.?to.?image|unconditional|video|class.?conditional|face).?(generation|synthesis)"
                         r"|generation|generative|text.?to.?image|unconditional"),
    ("subject personalization", r"personali[sz]ation|dreambooth|textual.?inversion"),
    ("conditional generation", r"condition\w*.?generation|control\w*"),
    ("node_classification", r"node.?(classification|property.*|prediction)|citation.*"),
    ("node embedding", r"node.?embedding|link.?prediction|knowledge.?graph.*|embedding"),
    ("graph_regression", r"graph.?regression|molecul\w*.?(property|regression)?|energy|force.?field"),
    ("graph_classification", r"graph.?(classification|property.*)"),
    ("point cloud classification", r"point.?cloud.*|3d.?(classification|shape).*"),
    ("ctr", r"ctr|click\w*.*|ads?.?ranking"),
    ("top-k recommendation", r"(top.?k.?)?recommend\w*|collaborative.?filtering|sequential.?rec\w*|ranking"),
    ("forecasting", r"(time.?series.?)?forecast\w*|time.?series.*|imputation|anomaly.*"),
    ("tabular", r"tabular.*"),
    ("view synthesis", r"(novel.?)?view.?synthesis|implicit.*|reconstruction.?3d|radiance.*|3d.?reconstruction"),
    ("pde", r"operator.?learning|pde|physics.*|pinn|differential.*|inverse.?problem|burgers|navier.*"
            r"|(hamiltonian|lagrangian|neural|physical)?.?(dynamics|ode)"),
    ("style transfer", r"style.?transfer"),
    ("3D segmentation", r"(3d|medical|volumetric|brain|organ).?(image.?)?segmentation"),
    ("instance segmentation", r"(instance|panoptic).?segmentation"),
    ("semantic segmentation", r"(semantic.?)?segmentation"),
    ("mri_reconstruction", r"mri.*|fastmri|medical.?reconstruction"),
    ("detection", r"(object.?)?detection|keypoint.*|pose.*"),
    ("discrete control", r"discrete.*|atari|cartpole|lunarlander|gridworld|board.?game|go|minigrid|procgen"
                         r"|memory.?gym"),
    ("continuous control", r"continuous.*|mujoco|locomotion|robot\w*|control|reinforcement.*"),
    ("fine-grained classification", r"fine.?grained.*"),
    ("multilabel classification", r"multi.?label.*"),
    ("text classification", r"text.?classification|sentiment\w*|glue|nli|sequence.?classification|token.?classification"
                            r"|ner|named.?entity.*|question.?answering|qa|squad|superglue|reading.?comp\w*|similarity"),
    ("summarization", r"summari[sz]ation|(table|data).?to.?text"),
    ("seq2seq", r"seq.?(to|2).?seq|text.?generation|text2text.*"),
    ("self_supervised_pretraining", r"(self.?supervised|ssl|masked.?image|contrastive|unsupervised).*|pre.?train\w*"),
    ("noisy classifier", r"noisy.?classif\w*"),
    ("causal_lm", r"(causal|autoregressive|decoder).?(lm|language\w*)|language.?model\w*|lm|next.?token.*"
                  r"|pretrain\w*.?lm"),
    ("image_classification", r"(image.?|video.?)?(classification|recognition)"),
)  # fmt: skip
_TASK = [(name, re.compile(rf"(?<![a-z])(?:{words})(?![a-z])")) for name, words in TASKS]

# architecture -> family when nothing else says it
_FAMILY = {
    "pinn": "scientific_inverse", "radiance": "scientific_inverse", "style_transfer": "scientific_inverse",
    "lora": "fine_tuning", "graph": "gnn", "policy": "rl", "gan": "gan", "diffusion": "diffusion",
    "contrastive": "contrastive_multimodal", "separation": "speech_audio", "speech": "speech_audio",
    "detector": "detection_segmentation", "segmenter": "detection_segmentation", "recommender": "recsys",
    "restorer": "image_restoration", "time_series": "tabular_timeseries", "tabular": "tabular_timeseries",
    "masked_lm": "lm_pretraining", "seq2seq": "translation", "recurrent": "rnn_lm", "masked_image": "ssl_vision",
    "contrastive_image": "ssl_vision", "causal_lm": "lm_pretraining", "lm": "lm_pretraining", "vit": "vit_supervised",
    "modern_cnn": "cnn_classification", "mobile": "cnn_classification", "cnn": "cnn_classification",
    "mlp": "tabular_timeseries",
}  # fmt: skip
_FAMILY_OF_TASK = {
    "linear probe": "ssl_vision", "preference optimization": "fine_tuning", "LLM RL": "rl",
    "instruction tuning": "fine_tuning", "image-text contrastive": "contrastive_multimodal",
    "captioning": "contrastive_multimodal", "masked_lm": "lm_pretraining", "mid-training": "lm_pretraining",
    "word LM": "rnn_lm", "translation": "translation", "image translation": "gan",
    "super resolution": "image_restoration", "audio restoration": "speech_audio",
    "music source separation": "speech_audio", "asr": "speech_audio", "tts": "speech_audio",
    "audio classification": "speech_audio",
    "image_generation": "diffusion", "subject personalization": "fine_tuning", "conditional generation": "fine_tuning",
    "node_classification": "gnn", "node embedding": "gnn", "graph_regression": "gnn", "graph_classification": "gnn",
    "point cloud classification": "gnn", "ctr": "recsys", "top-k recommendation": "recsys",
    "forecasting": "tabular_timeseries", "tabular": "tabular_timeseries", "view synthesis": "scientific_inverse",
    "pde": "scientific_inverse", "style transfer": "scientific_inverse", "3D segmentation": "detection_segmentation",
    "instance segmentation": "detection_segmentation", "semantic segmentation": "detection_segmentation",
    "mri_reconstruction": "algoperf_target", "detection": "detection_segmentation", "discrete control": "rl",
    "continuous control": "rl", "fine-grained classification": "cnn_classification",
    "multilabel classification": "fine_tuning", "text classification": "fine_tuning", "summarization": "fine_tuning",
    "seq2seq": "fine_tuning", "self_supervised_pretraining": "ssl_vision", "noisy classifier": "diffusion",
    "causal_lm": "lm_pretraining", "image_classification": "cnn_classification",
}  # fmt: skip

# data -> what it says about the task, and how many samples an epoch has
DATA: tuple[tuple[str, str, float | None], ...] = (
    (r"imagenet.?(1k|2012)?$|in1k|ilsvrc\w*", "image_classification", 1_281_167),
    (r"imagenet.?(21|22)k|in2[12]k", "image_classification", 14_197_122),
    (r"cifar.?\d*|svhn|mnist|fashion.?mnist|stl.?10|tiny.?imagenet", "image_classification", 50_000),
    (r"cub.?200.*|stanford.?(cars|dogs)|flowers.*|food.?101|aircraft|pets|inat\w*", "fine-grained "
                                                                                    "classification", 6_000),
    (r"(ms)?coco.*", "detection", 118_287),
    (r"pascal.*|voc.*", "semantic segmentation", 10_582),
    (r"cityscapes|ade.?20k", "semantic segmentation", 20_000),
    (r"kits\w*|brats\w*|btcv|acdc", "3D segmentation", None),
    (r"c4|the.?pile|openwebtext|fineweb\w*|slimpajama.*|dolma|redpajama|common.?crawl.*|olmo.?mix"
     r"|climbmix", "causal_lm", None),
    (r"wikitext.*|ptb|penn.?treebank|enwik8|text8|tiny.?shakespeare", "word LM", None),
    (r"wikipedia.*|bookcorpus", "masked_lm", None),
    (r"wmt.*|iwslt.*", "translation", 4_500_000),
    (r"glue.*|sst.?2|mnli|rte|sts.?b|imdb|squad.*|ag.?news|yelp|cola|mrpc|qqp|conll.*", "text classification", None),
    (r"alpaca.*|oasst\d?|ultrachat|dolly.*|tulu.*|sharegpt|openorca", "instruction tuning", 52_000),
    (r"ultrafeedback|hh.?rlhf", "preference optimization", 61_000),
    (r"librispeech.*|common.?voice|libri.?light|gigaspeech|aishell.*|tedlium", "asr", 281_241),
    (r"musdb\w*", "music source separation", None),
    (r"ljspeech|vctk|libritts", "tts", 13_100),
    (r"celeba.*|ffhq.*|lsun.*|afhq|imagenet.?(64|128|256|512)", "image_generation", None),
    (r"facades|horse2zebra|edges2shoes|maps", "image translation", 1_000),
    (r"div2k|df2k.*|reds|gopro|sidd|urban100", "super resolution", 800),
    (r"cora|citeseer|pubmed|ogbn.*|reddit|wikics.*", "node_classification", None),
    (r"zinc|qm9|md17", "graph_regression", 10_000),
    (r"ogbg.*|mutag|proteins|tu.?datasets|nci1|dd", "graph_classification", None),
    (r"modelnet\w*|shapenet", "point cloud classification", 9_843),
    (r"criteo.*|avazu", "ctr", 4_195_197_692),
    (r"movielens.*|gowalla.*|amazon.*|yelp2018|netflix", "top-k recommendation", None),
    (r"weather|ett\w*|electricity|traffic|m4|exchange", "forecasting", None),
    (r"blender|llff|mip.?nerf.?360|tanks.*", "view synthesis", None),
    (r"atari|cartpole.*|lunarlander.*|procgen|minigrid", "discrete control", None),
    (r"halfcheetah.*|hopper.*|walker.*|humanoid.*|pendulum.*|bipedal.*|mujoco|ant.*|dmc.*", "continuous control", None),
    (r"laion.*|cc3m|cc12m|datacomp|conceptual.*", "image-text contrastive", 400_000_000),
    (r"fastmri", "mri_reconstruction", 34_742),
)  # fmt: skip
_DATA = [(re.compile(rf"(?<![a-z])(?:{words})(?![a-z])"), task, size) for words, task, size in DATA]

_REGIME = {
    "linear_probe": r"linear.?prob\w*|frozen.?(backbone|features)",
    "fine_tune": r"fine.?tun\w*|ft|transfer\w*|pre.?trained|sft|lora|qlora|dpo|adapt\w*|dreambooth|instruct\w*",
    "rl": r"reinforcement\w*|rl|ppo\d?|dqn|sac|td3|a2c|grpo",
    "per_instance_fit": r"per.?instance.*|single.?(scene|image)|nerf|pinn|splat\w*|test.?time.?optimi[sz]\w*"
    r"|overfit one",
    "from_scratch": r"(from.?)?scratch|pre.?train\w*|random.?init\w*",
}
_REGIMES = {name: re.compile(rf"(?<![a-z])(?:{words})(?![a-z])") for name, words in _REGIME.items()}

# names of optimizers inside a name of a model or a remark, as "GPT-2 125M Sophia-G"
_OPTIMIZER = re.compile(
    r"(?<![a-z])(adamw|adam|sgd|lamb|lars|lion|muon|dion|sophia|soap|shampoo|adafactor|prodigy|schedule.?free|rmsprop"
    r"|adagrad|nadamw?|adan|adabelief|mars|ademamix|signum|novograd|l-?bfgs)(?![a-z])"
)


@dataclass(frozen=True)
class Read:
    """What a name says; empty where it says nothing."""

    architecture: str = ""
    backbone: str = ""
    family: str = ""
    params: float | None = None
    optimizer: str = ""
    batch_norm: bool | None = None


def read_model(text: str) -> Read:
    """What the name of a model says.

    >>> read_model("VGG-16 (no BN)").batch_norm, read_model("OLMo-2 13B").params
    (False, 13000000000.0)
    """
    low = text.lower().replace("_", " ")
    architecture = next((name for name, words in _ARCHITECTURE if words.search(low)), "")
    named = _OPTIMIZER.search(low)
    without = re.search(r"(no|without|w/o).?(bn|batch.?norm)|fixup|nf.?(res)?net|norm.?free", low)
    plain_vgg = re.search(r"(?<![a-z])(vgg|alexnet|lenet)", low) and not re.search(r"bn|batch.?norm", low)
    return Read(
        architecture,
        _backbone(low, architecture),
        _FAMILY.get(architecture, ""),
        _params(low),
        named.group(1) if named else "",
        False if without or plain_vgg else None,
    )


# the network inside a method that is named first, as the ViT of "MoCo v3 ViT-B"
_BACKBONES = (
    ("vit", re.compile(r"(?<![a-z])(vit\w*|swin\w*|deit\w*|transformer\w*|\w*former)(?![a-z])")),
    ("cnn", re.compile(r"(?<![a-z])(\w*resnet\w*|resnext\w*|r50|r101|r18|vgg\w*|convnext\w*|mobilenet\w*"
                       r"|darknet\w*)(?![a-z])")),
)  # fmt: skip
_OWN_BACKBONE = {
    "masked_image": "vit", "vit": "vit", "cnn": "cnn", "mobile": "cnn", "modern_cnn": "cnn", "contrastive_image": "",
}  # fmt: skip


def _backbone(low: str, architecture: str) -> str:
    named = next((name for name, words in _BACKBONES if words.search(low)), "")
    if not named and re.search(r"(?<![a-z])(dino|ibot|msn|esvit)", low):  # made for transformers
        named = "vit"
    return named or _OWN_BACKBONE.get(architecture, "")


def _params(low: str) -> float | None:
    found = re.search(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z0-9])", low)
    return float(found.group(1)) * {"b": 1e9, "m": 1e6}[found.group(2)] if found else None


def read_task(text: str) -> str:
    """The task that a text means, in the words of the configurations; empty if none is recognized."""
    low = text.lower().strip().replace("_", " ")
    return next((name for name, words in _TASK if name.lower().replace("_", " ") == low), "") or next(
        (name for name, words in _TASK if words.search(low)), ""
    )


def read_dataset(text: str) -> tuple[str, float | None]:
    """The task that data are usually used for, and the samples in an epoch if known."""
    low = text.lower().strip().replace("_", " ")
    return next(((task, size) for words, task, size in _DATA if words.search(low)), ("", None))


def read_regime(text: str) -> str:
    """The regime that a text means; empty if none is recognized.

    >>> read_regime("fine-tuning"), read_regime("from scratch")
    ('fine_tune', 'from_scratch')
    """
    low = text.lower().strip().replace("_", " ")
    return next((name for name, words in _REGIMES.items() if words.search(low)), "")


def family_of(architecture: str, task: str, regime: str) -> str:
    """The family of a training by task, architecture and regime; empty if neither says it."""
    mine, other = _FAMILY.get(architecture, ""), _FAMILY_OF_TASK.get(task, "")
    if regime == "rl" or mine == "rl":
        return "rl"
    if regime == "linear_probe" and mine in ("cnn_classification", "vit_supervised", "ssl_vision", ""):
        return "ssl_vision"
    if regime == "fine_tune" and (mine in ("lm_pretraining", "translation", "rnn_lm", "") and other in (
        "", "lm_pretraining", "fine_tuning", "translation", "rnn_lm")) and task != "mid-training":  # fmt: skip
        return "fine_tuning"
    if task == "image_classification":
        return mine if mine in ("vit_supervised", "ssl_vision", "cnn_classification") else other
    if task in ("image_generation", "super resolution", "self_supervised_pretraining"):
        return mine or other
    return other or mine
