"""What names of torch and of the libraries around it mean, and what names that people give suggest."""

from __future__ import annotations

import re
from functools import lru_cache

OPTIMIZER_MODULES = (
    "torch.optim", "torch_optimizer", "timm.optim", "bitsandbytes.optim", "apex.optimizers", "lion_pytorch", "stepwell",
    "stepwell.optimizers", "pytorch_optimizer", "schedulefree", "prodigyopt", "dadaptation", "transformers",
    "transformers.optimization", "torchao.optim", "deepspeed.ops.adam", "fairseq.optim", "optimi", "adabelief_pytorch",
    "ranger", "ranger21", "lamb", "sam", "muon", "came_pytorch", "sophia", "heavyball", "torch.distributed.optim",
)  # fmt: skip
SCHEDULER_MODULES = ("torch.optim.lr_scheduler",)
_OPTIMIZER = re.compile(
    r"(.*(Adam|Ada[A-Z]|SGD|Adagrad|Adadelta|Adafactor|AdaBelief|RMSprop|Rprop|LBFGS|Lion|LAMB|Lamb|LARS|Lars|Muon|"
    r"Shampoo|SOAP|Sophia|Prodigy|Ranger|Lookahead|NovoGrad|Novograd|ScheduleFree|Optimizer|Madgrad|MADGRAD|Apollo|"
    r"Adan|CAME|Tiger|LaProp|Signum|RAdam|PagedAdam).*|SAM|ASAM|ASGD)$"
)
_NOT_OPTIMIZER = re.compile(
    r"(get_|create_|build_|make_).*|.*(Scheduler|Config|Args|State|Callback|Hook|Wrapper|LocalSGD)$"
)

SCHEDULER_CLASSES = frozenset((
    "LambdaLR", "MultiplicativeLR", "StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR",
    "SequentialLR", "PolynomialLR", "CosineAnnealingLR", "ChainedScheduler", "ReduceLROnPlateau", "CyclicLR",
    "CosineAnnealingWarmRestarts", "OneCycleLR", "LRScheduler", "_LRScheduler", "SWALR",
))  # fmt: skip
TRANSFORMERS_SCHEDULES = re.compile(r"(transformers|diffusers)(\.\w+)*\.get_\w*schedule\w*$")

LOSSES = frozenset((
    "L1Loss", "MSELoss", "CrossEntropyLoss", "NLLLoss", "PoissonNLLLoss", "GaussianNLLLoss", "KLDivLoss", "BCELoss",
    "BCEWithLogitsLoss", "MarginRankingLoss", "HingeEmbeddingLoss", "MultiLabelMarginLoss", "HuberLoss",
    "SmoothL1Loss", "SoftMarginLoss", "CTCLoss", "MultiLabelSoftMarginLoss", "CosineEmbeddingLoss",
    "MultiMarginLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss", "NLLLoss2d",
))  # fmt: skip
LOSS_FUNCTIONS = frozenset((
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "ctc_loss",
    "cosine_embedding_loss", "gaussian_nll_loss", "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss",
    "mse_loss", "margin_ranking_loss", "nll_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss",
    "multi_margin_loss", "poisson_nll_loss", "smooth_l1_loss", "soft_margin_loss", "triplet_margin_loss",
))  # fmt: skip

# Calls that give back what they are given, in another wrapping.
SAME = frozenset((
    "torch.nn.DataParallel", "torch.nn.parallel.DataParallel", "torch.nn.parallel.DistributedDataParallel",
    "torch.compile", "torch.nn.parallel.distributed.DistributedDataParallel", "torch.jit.script",
    "apex.parallel.DistributedDataParallel", "torch.nn.SyncBatchNorm.convert_sync_batchnorm",
    "torch.nn.utils.spectral_norm", "torch.nn.utils.weight_norm", "torch.nn.utils.parametrizations.spectral_norm",
    "torch.nn.utils.parametrizations.weight_norm", "torch.distributed.fsdp.FullyShardedDataParallel",
    "torch.distributed.fsdp.fully_shard", "torch.autograd.Variable", "torch.nn.parallel.replicate",
    "torch.utils.data.distributed.wrap", "list", "tuple", "iter", "apex.parallel.convert_syncbn_model",
    "timm.utils.unwrap_model", "tqdm", "tqdm.tqdm", "tqdm.auto.tqdm", "tqdm.notebook.tqdm", "tqdm.tqdm_notebook",
    "tqdm.trange", "rich.progress.track", "alive_progress.alive_it", "fastprogress.progress_bar",
    "fastprogress.master_bar", "itertools.islice", "itertools.cycle", "reversed", "sorted",
))  # fmt: skip
SAME_METHODS = frozenset((
    "to", "cuda", "cpu", "half", "float", "double", "bfloat16", "xpu", "share_memory", "requires_grad_", "type",
    "to_empty", "apply", "module",
))  # fmt: skip

FRAMEWORKS = {
    "accelerate.Accelerator": "accelerator",
    "accelerate.accelerator.Accelerator": "accelerator",
    "lightning.Fabric": "accelerator",
    "lightning.fabric.Fabric": "accelerator",
    "lightning_fabric.Fabric": "accelerator",
    "lightning.pytorch.Fabric": "accelerator",
    "stepwell.Step": "closure_step",
    "stepwell.step.Step": "closure_step",
}
LIGHTNING = re.compile(
    r"(pytorch_lightning|lightning|lightning\.pytorch|pl)(\.\w+)*\.(LightningModule|LightningDataModule)$"
)
TRAINER = re.compile(r"(transformers|trl|sentence_transformers)(\.\w+)*\.\w*Trainer$")

NO_GRAD = frozenset(
    ["torch.no_grad", "torch.inference_mode", "torch.autograd.no_grad", "torch.autograd.inference_mode"]
)
GRAD = frozenset(["torch.enable_grad", "torch.autograd.enable_grad"])
SET_GRAD = frozenset(
    ["torch.set_grad_enabled", "torch.autograd.set_grad_enabled", "torch.autograd.grad_mode.set_grad_enabled"]
)
AUTOCAST = frozenset((
    "torch.autocast", "torch.amp.autocast", "torch.cuda.amp.autocast", "torch.cpu.amp.autocast",
    "torch.amp.autocast_mode.autocast", "torch.cuda.amp.autocast_mode.autocast",
))  # fmt: skip
SCALERS = frozenset((
    "torch.cuda.amp.GradScaler", "torch.amp.GradScaler", "torch.cuda.amp.grad_scaler.GradScaler",
    "torch.amp.grad_scaler.GradScaler",
))  # fmt: skip
CLIPS = {
    "torch.nn.utils.clip_grad_norm_": "norm",
    "torch.nn.utils.clip_grad_norm": "norm",
    "torch.nn.utils.clip_grad_value_": "value",
    "torch.nn.utils.clip_grad.clip_grad_norm_": "norm",
    "torch.nn.utils.clip_grad.clip_grad_norm": "norm",
    "torch.nn.utils.clip_grad.clip_grad_value_": "value",
    "timm.utils.dispatch_clip_grad": "norm",
}
LOADERS = frozenset((
    "torch.utils.data.DataLoader", "torch.utils.data.dataloader.DataLoader", "torch_geometric.loader.DataLoader",
    "torch_geometric.data.DataLoader", "torch_geometric.loader.NeighborLoader", "dgl.dataloading.DataLoader",
    "dgl.dataloading.GraphDataLoader", "torch_geometric.loader.NeighborSampler", "torchtext.data.BucketIterator",
    "torch_geometric.loader.LinkNeighborLoader", "torch_geometric.loader.ClusterLoader",
))  # fmt: skip
SAMPLERS = frozenset(["torch.utils.data.distributed.DistributedSampler", "torch.utils.data.DistributedSampler"])

# Methods of a tensor whose result has no graph, and those that give Python numbers.
DETACHING = frozenset((
    "detach", "data", "argmax", "argmin", "eq", "ne", "gt", "lt", "ge", "le", "equal", "long", "int", "bool",
    "sign", "new_tensor", "new_zeros", "new_ones", "size", "detach_", "zeros_like", "ones_like", "argsort",
    "nonzero", "isnan", "isinf", "numel", "dim",
))  # fmt: skip
TO_NUMBER = frozenset(["item", "tolist", "numpy", "__float__", "__int__", "asnumpy"])
NUMBER_CALLS = frozenset((
    "float", "int", "round", "str", "len", "bool", "abs_", "format", "isinstance", "repr", "range", "id", "hash",
    "type", "time.time", "math.exp", "math.sqrt",
))  # fmt: skip

_NAMES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("scheduler", re.compile(r"(^|_)(lr_?)?(sched|scheduler|schedule)(uler)?s?(_|\d|$)", re.I)),
    ("scaler", re.compile(r"(^|_)(grad_?|loss_?|amp_?)?scaler(_|\d|$)", re.I)),
    ("optimizer", re.compile(
        r"(^|_)(opt|optim|optimi[sz]er)s?(_?[a-z]{1,2})?(_|\d|$)|(^|_)(optimi[sz]er|optim)([A-Z]|[dg]$|_)|^opt[A-Z]")),
    ("accelerator", re.compile(r"^(accelerator|fabric)$")),
    ("loader", re.compile(r"(data_?)?(loader|iter|iterator)s?(_|\d|$)|(^|_)(dl|batches|dataloaders?)(_|$)", re.I)),
    ("criterion", re.compile(
        r"(^|_)(criterion|criteria|loss_?(fn|func|function|f|fct|module|obj)|objective)(_|\d|$)", re.I)),
    ("model", re.compile(
        r"(^|_)(model|net|network|generator|discriminator|encoder|decoder|critic|actor|policy|backbone|classifier|"
        r"student|teacher|unet|vae|gan|agent_net|q_?net|module|ema_model|target_net)s?(_|\d|$)|"
        r"^net_?[DGA-Z]|^[DG](_\w+)?$", re.I)),
)  # fmt: skip
_NOT_OPTIMIZER_NAME = re.compile(
    r"opt(ion|s|ion_?s)?$|opt_(path|name|type|level|args|cfg|config|class|cls|kwargs|params|state|str|fn|step)|"
    r"optimi[sz]er_(name|type|args|cfg|config|class|cls|kwargs|params|state|str|fn|factory|path|step)",
    re.I,
)
_NOT_THING = re.compile(
    r"(name|path|file|dir|type|args|cfg|config|kwargs|state|state_?dict|size|id|ids|str|fn|params?|parameters|class|"
    r"factory|step|steps|input|inputs|output|outputs|lr|dim|log|key|opt|weights|zoo|out|loss|acc|time|mode|list_names|"
    r"version|save|prefix|folder|root|url|info|dtype|epoch|to_\w+|dict|cls|interval|warmup|gamma|flag|enabled)s?$",
    re.I,
)


@lru_cache(maxsize=10_000)  # the same few names are asked for all the time
def kind_of_name(name: str) -> str:
    """What a variable of this name usually is, or ""."""
    name = name.rsplit(".", 1)[-1]
    if name.startswith(("configure_", "make_", "build_", "create_", "get_", "setup_", "init_", "define_")):
        return ""  # a function that gives one
    if name == "opt":  # an optimizer or the options: whoever asks looks at what is done with it
        return "optimizer"
    for kind, pattern in _NAMES:
        if pattern.search(name):
            if kind == "criterion":
                return kind
            tail = name.rsplit("_", 1)[-1] if "_" in name else ""
            if tail and _NOT_THING.match(tail) and tail not in ("opt",):
                return ""
            if kind == "optimizer" and _NOT_OPTIMIZER_NAME.search(name):
                return ""
            return kind
    return ""


def is_optimizer(name: str) -> bool:
    """Whether a full name is that of a class of optimizers."""
    module, _, last = name.rpartition(".")
    if _NOT_OPTIMIZER.match(last) or not last[:1].isupper():
        return False
    if module == "torch.optim" or module.startswith("torch.optim."):
        return last not in SCHEDULER_CLASSES and "lr_scheduler" not in module and module != "torch.optim.swa_utils"
    return bool(_OPTIMIZER.match(last)) and (module.startswith(OPTIMIZER_MODULES) or bool(module))


def is_scheduler(name: str) -> bool:
    """Whether a full name is that of a scheduler of torch (or of a function that returns one)."""
    module, _, last = name.rpartition(".")
    return (last in SCHEDULER_CLASSES and module.startswith("torch.optim")) or bool(TRANSFORMERS_SCHEDULES.match(name))


def is_module(name: str) -> bool:
    """Whether a full name is that of a class of modules: torch.nn.Linear, torchvision.models.resnet18."""
    module, _, last = name.rpartition(".")
    if module in ("torch.nn", "torch.nn.modules") or module.startswith("torch.nn.modules."):
        return last[:1].isupper() and last not in LOSSES and last not in ("Parameter", "ParameterList", "Buffer")
    return module.startswith(("torchvision.models", "segmentation_models_pytorch", "torch_geometric.nn")) or name in (
        "timm.create_model", "timm.models.create_model", "torch.hub.load"
    ) or (
        last == "from_pretrained" and bool(re.search(r"Model|For[A-Z]|Net", module)) and "Pipeline" not in module
    )  # fmt: skip


def full_name(name: str) -> str:
    """A full name in its usual form: `torch.nn.functional` however it is reached."""
    for short, full in (("torch.functional.F", "torch.nn.functional"), ("torch.optim.adamw.", "torch.optim."),
                        ("torch.optim.adam.", "torch.optim."), ("torch.optim.sgd.", "torch.optim."),
                        ("torch.nn.modules.loss.", "torch.nn."),
                        ("torch.nn.modules.module.", "torch.nn.")):  # fmt: skip
        if name.startswith(short):
            return full + name[len(short) :]
    return name


# a module that was imported by its name is taken for a model: these make one
MAKES = (
    "get_model", "get_net", "build_", "create_", "make_", "get_optimizer", "get_loss", "get_criterion",
)  # fmt: skip
# what a dict of models is asked for, which a name such as `models` is taken for
OF_DICTS = ("get", "items", "keys", "values", "pop", "copy", "index")

_MODEL_METHODS = frozenset((
    "train", "eval", "parameters", "named_parameters", "zero_grad", "state_dict", "load_state_dict", "to", "cuda",
    "cpu", "half", "float", "double", "bfloat16", "apply", "children", "modules", "named_modules", "named_children",
    "buffers", "requires_grad_", "register_buffer", "add_module", "register_forward_hook",
    "register_full_backward_hook", "share_memory", "no_sync", "forward", "backward", "step", "save_pretrained",
    "register_parameter", "register_module", "append", "extend", "clip_grad_norm_", "gradient_checkpointing_enable",
    "compile",
))  # fmt: skip


def is_model_method(name: str) -> bool:
    return name in _MODEL_METHODS
