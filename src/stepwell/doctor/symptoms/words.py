"""The words that mean a setting: kinds of training, goals, precisions, parts of the training."""

from __future__ import annotations

# kind of training -> words; the first that is found counts, so that "LoRA fine-tuning" is LoRA
KINDS: dict[str, str] = {
    "lora": r"q?lora|peft|adapters?",
    "gan": r"gans?|w?gan ?gp|dcgan|stylegan|discriminator|generator|adversarial",
    "rl": r"rl|rlhf|reinforcement|ppo|dqn|sac|a2c|ddpg|td3|grpo|reward|policy|agent|q learning",
    "diffusion": r"diffusion|ddpm|unet denois\w*|dit|score matching",
    "gnn": r"gnns?|gcns?|gats?|graph (?:neural )?networks?|node classification",
    "fine-tuning": r"fine ?tun\w*|finetun\w*|sft|dpo|transfer learning|pre ?trained (?:model|weights|backbone|network)",
    "vit": r"vits?|swin\w*|deit\w*|vision transformers?|mae",
    "rnn": r"rnns?|lstms?|grus?|recurrent|seq ?2 ?seq",
    "transformer": r"transformers?|gpt\w*|n?llms?|bert|roberta|llama\w*|t5|attention|language models?",
    "cnn": r"cnns?|convnets?|convolution\w*|res ?nets?\w*|vgg\w*|efficientnets?|mobilenets?|u ?nets?|yolo\w*",
    "mlp": r"mlps?|perceptron|dense network|feed ?forward|fully connected|tabular",
}

GOALS: dict[str, str] = {
    "regression": r"regress\w+|mse|mean squared|l1 loss|smooth l1|forecast\w*",
    "segmentation": r"segment\w+|dice",
    "detection": r"(?:object )?detect(?:ion|or)|bounding box(?:es)?",
    "language": r"language model\w*|gpt\w*|llms?|llama\w*|perplexity|tokens?|translation|text generation",
    "classification": r"classif\w+|classes|cross ?entropy|accuracy|imagenet|cifar\w*|mnist|labels?",
}

PRECISIONS: dict[str, str] = {  # where several are named, the first of these is the one that fails
    "fp16": r"fp16|float ?16|half(?: precision)?|f16|16 bit|16 mixed",
    "bf16": r"bf16|b ?float ?16|bf16 mixed",
    "mixed": r"mixed(?: precision)?|amp|autocast|grad ?scaler",
    "fp32": r"fp32|float ?32|full precision|single precision|tf32|f32",
}

# part of the training -> words; "no" or "without" before it says that the training does not have it
TOPICS: dict[str, str] = {
    "zero_grad": r"zero ?_?grad\w*",
    "warmup": r"warm ?up|warming up",
    "schedule": r"schedul\w+|cosine|one ?cycle\w*|step ?lr|(?:lr|rate) decay|annealing|(?<!weight )decay(?=[,.;]|$)",
    "clip": r"(?:grad(?:ient)?s? (?:norm )?)?clip\w*",
    "scaler": r"(?:grad ?scaler|loss scal\w+)",
    "accumulation": r"(?:grad(?:ient)? )?accum\w+|micro ?batch\w*",
    "shuffle": r"shuffl\w+",
    "batch_norm": r"batch ?norm\w*|bn",
    "dropout": r"dropout",
    "augmentation": r"augment\w*|mixup|cutmix",
    "normalized": r"(?:input |data |image )?normali[sz](?:ed|ation|ing)|standardi[sz]\w+",
    "pretrained": r"pre ?trained",
    "frozen": r"fr(?:oze|eez)\w*",
    "softmax": r"softmax|sigmoid",
    "weight_decay": r"weight ?decay|l2 regulari[sz]ation",
}

TOPIC_TITLES = {"zero_grad": "zero_grad()", "clip": "gradient clipping", "accumulation": "gradient accumulation",
                "schedule": "a schedule", "warmup": "a warmup", "shuffle": "shuffling", "batch_norm": "batch norm",
                "augmentation": "augmentation", "normalized": "normalized inputs", "pretrained": "pretrained weights",
                "frozen": "frozen layers", "softmax": "a softmax or sigmoid", "weight_decay": "weight decay",
                "scaler": "a gradient scaler", "dropout": "dropout"}  # fmt: skip

# names that people write in other ways, in text that is already in lower case and without hyphens
OPTIMIZER_WORDS: tuple[tuple[str, str], ...] = (
    (r"adam w\b", "adamw"),
    (r"rms prop\b", "rmsprop"),
    (r"ada grad\b", "adagrad"),
    (r"ada ?delta\b", "adadelta"),
    (r"ada factor\b", "adafactor"),
    (r"l ?bfgs\b", "lbfgs"),
    (r"schedule ?free sgd\b|sgd schedule ?free\b", "schedulefreesgd"),
    (r"schedule ?free(?: adamw?)?\b|adamw? schedule ?free\b", "schedulefreeadamw"),
    (r"(?:8 ?bit adamw?|adamw? 8 ?bit|adam8bit)\b", "adamw8bit"),
    (r"(?:4 ?bit adamw?|adamw? 4 ?bit)\b", "adamw4bit"),
    (r"(?:nag|nesterov)\b(?! sgd)", "sgd"),
    (r"(?:stochastic gradient descent|gradient descent)\b", "sgd"),
    (r"d ?adapt(?:ation)?(?: adam)?\b", "dadaptadam"),
)

# English words that are near a word of the tables and must not be corrected to that
_ENGLISH = """a able unable about above add after again all almost also always an and any are around as at back bad
based be because become before begin below better between big but by call can change class clean close code compare
compute could data day deep did different do does done down each early else end error even every example expected far
fast few final find first fixed for found from full function get gets getting give given go goes going good great had
half happen happens has have he help here high how i if image images in increase inputs inside instead into is issue
it its just keep know large last late layer layers learn learned learning less like line little long look low lower
made make many may me mean means mine minutes model more most much my near need network never new next no node normal
not now number of off ok on once one only open optimizer or other our out over own part per place please point
possible problem process python question quite rate really reason rest right run running same sample samples say see
seems set setting several should show shows since size slow small so some something sometimes stable start started
starts state step steps still such sure take takes task team than that the their them then there these they thing
things think this those through time times to too torch train trained training try trying two under until up use used
using usually value values very want was way we weights well went were what when where which while who why will with
within without work worked working works would wrong year yes you your stays remains mode loads loading larger smaller
exploit explore expose decline include includes reached reaches sounds bounds boundary counts fine"""
ENGLISH = frozenset(_ENGLISH.split())
