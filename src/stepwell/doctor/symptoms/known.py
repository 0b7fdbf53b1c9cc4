"""The symptoms that are understood: a name, a sentence, and the words that mean it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

LOSS = r"(?:(?:train(?:ing)? )?loss(?:es)?|it|model|training|perplexity|error|cost)"
ALSO = r"(?:\W+\w+){0,3}?\W+"
NOT = r"(?:not|never|no longer|hardly|barely|stops?|stopped|refuses? to|fails? to|unable to|cannot)"
VAL = r"(?:val(?:idation)?|test|eval(?:uation)?|held ?out|dev)"


@dataclass(frozen=True)
class Symptom:
    """`words` are regular expressions over text in lower case. A special symptom points to few causes: the causes of
    a general symptom that is named with it are listed only if a fact speaks for them."""

    title: str
    words: tuple[str, ...]
    special: bool = False

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?<!\w)(?:{'|'.join(self.words)})")


SYMPTOMS: dict[str, Symptom] = {
    "nan": Symptom("loss is nan or inf", (r"nans?\b", r"infs?\b", r"infinit(?:y|e)", r"not a number", r"non ?finite")),
    "diverges": Symptom(
        "loss diverges or explodes",
        (
            r"diverg\w+",
            rf"{LOSS}{ALSO}(?:explod\w+|blow\w* up|blew up|huge|keeps? (?:growing|rising|increasing|going up))",
            r"(?<!gradient )(?<!gradients )(?:explod\w+|blows? up|blew up)(?! grad| of grad|ing grad)",
            rf"{LOSS} (?:is |keeps? |just |only |slowly |steadily )*(?:ris\w+|increas\w+|grow\w+|goes up|going up)",
        ),
    ),
    "oscillates": Symptom(
        "loss oscillates or is unstable",
        (r"oscillat\w+", r"unstab\w+", r"instab\w+", r"bounc\w+", r"zig ?zag\w*", r"fluctuat\w+", r"jumps? around",
         r"erratic\w*", r"jitter\w*", r"not stable", r"up and down", r"loss is (?:very |really |too )?noisy",
         r"noisy (?:train(?:ing)? )?(?:loss|curve)"),
    ),
    "spikes": Symptom("loss has spikes", (r"spik\w+", r"sudden(?:ly)? (?:jumps?|rises?|increases?|peaks?)")),
    "stuck": Symptom(
        "loss does not decrease",
        (rf"(?:{NOT} |does not )(?:really |even )?(?:decreas\w*|go(?:es|ing)? down|drop\w*|improv\w*|reduc\w*|fall\w*"
         r"|move|change much)", r"stuck", rf"{NOT} (?:learn|train|converge|fit|optimi)\w*",
         r"no (?:progress|learning|improvement|convergence)",
         r"learns? nothing", r"without (?:progress|improvement)", r"not (?:converging|learning|training)"),
    ),
    "constant": Symptom(
        "loss is exactly constant",
        (r"(?:loss|it|accuracy|value|output)s? (?:is |stays? |remains? |are )*(?:exactly )?(?:constant|the same|flat"
         r"|identical)", r"constant loss", r"flat loss", r"(?:loss|weights?|parameters?|params) (?:do |does )?"
         r"(?:not|never) (?:chang|updat|mov)\w*", r"weights? (?:are|stay) (?:frozen|unchanged|the same)",
         r"exactly (?:constant|the same)", r"not (?:getting |being )?updat(?:ed|ing)",
         r"(?:does|do|did) not change\b"),
    ),
    "plateau": Symptom(
        "loss falls and then stays on a plateau",
        (r"plateau\w*", r"saturat\w+ (?:at|early|too)", r"stagnat\w+", r"level\w* off", r"flattens?(?: out)?",
         r"stops? (?:improving|decreasing|learning|falling)"),
    ),
    "slow": Symptom(
        "loss falls too slowly",
        (r"(?:decreas\w+|converg\w+|learn\w*|fall\w*|improv\w+|progress|train\w*|goes down)\W+(?:\w+\W+){0,3}?slow\w*",
         r"takes? (?:forever|too long)", r"underfit\w*", r"slow(?:ly|er)?\b(?! (?:ris|increas|grow|diverg|leak)\w+)"),
    ),
    "drop_then_rise": Symptom(
        "loss falls and then rises",
        (r"(?:drop|fall|decreas|go(?:es)? down|went down|improv|declin)\w*(?: \w+){0,4}?,? (?:and |but "
        r")?(?:then|later|afterwards)"
         r"(?:\W+\w+){0,4}?\W+(?:ris|increas|go(?:es)? up|went up|grow|diverg|rose|worse|explod|climb)\w*",
         r"first (?:drops|falls|decreases|goes down)", r"(?:ris|increas|go(?:es)? up)\w* again", r"rebounds?"),
    ),
    "overfits": Symptom(
        "the model overfits",
        (r"over ?fit\w*", r"generali[sz]ation gap", r"memori[sz]\w+", r"(?:not|poorly|badly) generali[sz]\w*",
         rf"{VAL}(?: \w+)? (?:is |are |gets? |much |far |way |a lot |goes |keeps? |starts? |to )*"
         r"(?:worse|lower|bad|poor|increas\w+|ris\w+|up|higher|diverg\w+)",
         rf"train\w* loss (?:is |much |far )*(?:lower|better|smaller) than (?:the )?{VAL}",
         rf"train\w* acc\w* (?:is |much |far )*(?:higher|better) than (?:the )?{VAL}",
         rf"{VAL}(?: \w+)? (?:is |are |looks? )*(?:terrible|awful)",
         rf"train\w*(?: \w+)? (?:is |goes |keeps? |much )*(?:down|good|fine|high|low|decreas\w+|better|perfect|falling)"
         rf"(?:\W+\w+){{0,3}}?\W+{VAL}(?!\w* better)", rf"train\w*[^.%]{{0,25}}\d ?%[^.%]{{0,25}}{VAL}",
         r"worse than (?:the )?train\w*"),
    ),
    "val_noisy": Symptom(
        "validation is noisy",
        (rf"{VAL}(?: \w+)? (?:is |are |very |really |too |so )*(?:noisy|jump\w*|fluctuat\w+|oscillat\w+|unstable"
         r"|bounc\w+|erratic)", rf"noisy {VAL}", rf"noise in (?:the )?{VAL}"),
    ),
    "train_eval": Symptom(
        "results differ between train and eval mode",
        (r"(?:in |with |after |between |under |calling |model )+(?:train|eval)(?:\(\)|uation|ing)?(?: mode)? "
        r"(?:and|vs|versus|or"
         r"|but not|than) (?:in |with )*(?:eval|train)", r"eval mode", r"model ?\.?eval\b", r"train mode",
         r"(?:differ\w*|worse|bad) in eval\b", r"inference (?:is|gives|results?)(?: \w+)? (?:worse|bad|differ\w*)"),
        special=True,
    ),
    "chance": Symptom(
        "accuracy is at chance level",
        (r"(?:at|near|around|like|to) (?:chance|random)", r"chance level", r"random(?:ly)? guess\w*",
        r"no better than random",
         r"accuracy (?:is |stays |stuck |remains |at |around |only )+(?:0?\.1|0?\.5|0?\.01|10 ?%|50 ?%|1 ?%|10 "
         r"percent)",
         r"accuracy(?:\W+\w+){0,5}?\W+(?:around|about|at|always) (?:10|50) ?%",
         r"(?:log|ln) ?\(?(?:num )?(?:classes|10|1000)", r"(?:loss|stuck|stays|remains|plateaus?) (?:is |stays "
         r"|stuck |at |around |= ?)+(?:2\.30?\d*|0?\.69\d*|6\.9\d*)"),
    ),
    "one_class": Symptom(
        "the model predicts one class only",
        (r"(?:one|single|same|majority) (?:class|label|output|prediction|answer|token)", r"always predicts?",
         r"predicts? (?:only|always|the same|everything|all)", r"same (?:prediction|output)s?", r"imbalanc\w+"),
    ),
    "zero": Symptom(
        "loss is 0",
        (r"loss (?:is |becomes? |goes to |drops to |equals |of |immediately |always |= ?|stays "
        r")+(?:0(?:\.0+)?|zero)(?![.\d%])",
         r"zero loss"),
        special=True,
    ),
    "too_good": Symptom(
        "results are suspiciously good",
        (r"suspicious\w*", r"too good", r"(?:100 ?%|perfect) (?:accuracy|score|val\w*|test)",
         r"accuracy (?:is |of |reaches )*(?:100 ?%|1\.0|perfect)", r"unrealistic\w*", r"leak\w*"),
        special=True,
    ),
    "val_better": Symptom(
        "validation is better than training",
        (rf"{VAL}(?: \w+)? (?:is |are |much )*better than (?:the )?train\w*",
         rf"{VAL} (?:loss|error)(?:es|s)? (?:is |are |much )*(?:lower|smaller) than (?:the |in )?train\w*",
         rf"{VAL} acc\w* (?:is |are |much )*higher than (?:the |in )?train\w*",
         rf"train\w*(?: loss| error)? (?:is |are |much )*(?:worse|higher) than (?:the |in )?{VAL}",
         rf"train\w* acc\w* (?:is |are |much )*(?:lower|worse) than (?:the |in )?{VAL}"),
        special=True,
    ),
    "resume": Symptom(
        "loss jumps when the training is resumed",
        (r"resum\w+", r"restart(?:ing|ed)? (?:from|the training|training)", r"(?:load|loading|loaded)(?: \w+){0,2} "
        r"checkpoint",
         r"(?:after|from|at) (?:a |the )?checkpoint", r"continu\w+ (?:the )?training", r"reload\w*"),
        special=True,
    ),
    "vanish": Symptom(
        "gradients vanish",
        (r"vanish\w*", r"grad(?:ient)?s?(?: norms?)? (?:is |are |all |very |become |becomes |go to |goes to "
        r"|nearly |almost )+"
         r"(?:zero|0\b|none|small|tiny)", r"(?:no|zero|tiny) grad(?:ient)?s?\b(?! scal| clip| accum)",
         r"dead (?:relu|unit|neuron)s?", r"grad is (?:none)"),
    ),
    "explode_grad": Symptom(
        "gradients explode",
        (r"explod\w+ grad\w*", r"grad(?:ient)?s?(?: norms?)? (?:is |are |suddenly |become |becomes |keeps? "
        r")*(?:explod\w+|huge|large|"
         r"very large|blow\w* up|grow\w*|spik\w+|too (?:large|big|high))", r"gradient explosion", r"(?:huge|large) "
         r"grad\w*"),
    ),
    "oom": Symptom(
        "out of memory",
        (r"out of memory", r"\boom\b", r"cuda memory", r"memory (?:error|is full|runs out|overflow)",
        r"not fit (?:in|into) memory"),
        special=True,
    ),
    "memory_grows": Symptom(
        "memory grows during the training",
        (r"memory (?:usage |use |consumption |keeps? |slowly |steadily )*(?:grow|increas|ris|leak|climb|goes "
        r"up)\w*", r"memory leak",
         r"(?:growing|increasing|leaking) memory"),
        special=True,
    ),
    "gan_collapse": Symptom(
        "the GAN collapses",
        (r"mode collapse", r"gan (?:training )?(?:collaps|fail|diverg)\w*", r"generator (?:loss )?(?:\w+ "
        r")?(?:collaps|explod|produces|outputs|"
         r"rises|increas|fail|same)\w*", r"discriminator (?:loss )?(?:\w+ )*?(?:zero|0\b|wins|perfect|too "
         r"(?:strong|good))", r"(?:same|identical) images?",
         r"collaps\w*"),
        special=True,
    ),
    "reward_flat": Symptom(
        "the reward does not rise",
        (r"(?:reward|return|episode score)s?(?: \w+)? (?:is |are |stays? |remains? |does |do "
        r")*(?:flat|constant|not (?:ris|increas|improv|grow|chang)\w*"
         r"|stuck|low|zero|collaps\w*|drop\w*|falls?|decreas\w*|unstable|noisy)", r"flat reward", r"agent (?:does "
         r"not|is not|never|fails to)? ?learn\w*",
         r"policy collaps\w*", r"no reward"),
        special=True,
    ),
    "precision_only": Symptom(
        "fails in low precision and works in fp32",
        (r"(?:work|fine|ok|okay|stable|train|converg|good)\w*(?: \w+){0,2} (?:in|with|on|under|using) (?:fp32|full "
        r"precision)",
         r"(?:only|just) (?:in|with|on|under|when using|for|if using) (?:fp16|bf16|amp|mixed|half|autocast)",
         r"fp32 (?:is |works? |runs? )+(?:fine|ok|stable|well|good)?", r"not (?:in|with|under|on) fp32",
         r"(?:not|fails?|breaks?|nan|worse|diverges?) (?:in|with|under|on) (?:fp16|bf16|amp|mixed "
         r"precision|half|autocast)"
         r"(?=.*\bfp32)", r"(?:since|after) (?:enabling|turning on|switching to|i enabled|adding) "
         r"(?:fp16|bf16|amp|mixed|autocast|half)",
         r"(?:work|fine|ok|okay|stable|train|converg)\w* (?:well )?without (?:fp16|bf16|amp|mixed|half|autocast)"),
        special=True,
    ),
    "multi_gpu": Symptom(
        "results differ on several GPUs",
        (r"(?:several|multiple|multi|two|four|eight|[2-9]|\d\d+)[ -]?(?:gpus?|nodes?|devices|ranks)", r"\bddp\b",
        r"\bfsdp\b", r"distributed",
         r"(?:different|differs|worse|bad) (?:on|with|across) (?:\w+ )?(?:gpus|ranks|nodes|devices)",
         r"data ?parallel"),
        special=True,
    ),
    "after_switch": Symptom(
        "fails after the optimizer was changed",
        (r"(?:switch|chang|swap|replac|mov)\w*(?: the)?(?: optimizer)?(?: from)?(?: @)?,? (?:to|with|by|for) "
        r"(?:an? )?(?:@|another optimizer)",
         r"(?:after|since) (?:the |i |we |a )*(?:chang|switch|swap)\w*(?: of)?(?: the)? optimizer",
         r"optimizer (?:was |is |has been )*(?:chang|switch|swap|replac)\w*",
         r"@ (?:work|train|converg|is fine|is ok)\w*(?: \w+)*,? (?:but|and|while) (?:with )?@", r"work\w* (?:fine "
         r"|well )?with (?:\w+ )?@",
         r"instead of @", r"fails? with @", r"new optimizer"),
        special=True,
    ),
    "periodic": Symptom(
        "loss jumps or repeats every epoch",
        (r"(?:each|every|per) epoch", r"(?:start|beginning|boundary|end)s? of (?:an?|each|every|the|a new) (?:new "
        r")?epoch", r"epoch boundar\w+", r"periodic\w*",
         r"saw ?tooth\w*", r"(?:steps?|stair\w*) (?:pattern|shape)", r"staircase"),
    ),
    "high_start": Symptom(
        "the first loss is implausibly high",
        (r"(?:first|initial|starting) loss (?:\w+ )*(?:high|large|huge|big|too)", r"(?:loss )?starts? (?:at |with "
        r"|off )?(?:a |an )?(?:very |too |really )?"
         r"(?:high|huge|large)", r"(?:high|huge|large) (?:initial|first|starting) loss"),
    ),
    "forgets": Symptom(
        "fine-tuning destroys what the model knew",
        (r"forget\w*", r"worse than (?:before|the (?:base|pretrained|original))", r"worse after (?:fine "
        r"?tuning|finetuning)", r"destroy\w*", r"gibberish",
         r"loses? (?:its )?(?:abilit|knowledge|skill)\w*"),
        special=True,
    ),
    "irreproducible": Symptom(
        "two equal runs give different results",
        (r"(?:not|never|cannot|hard to|non) (?:be )?reproduc\w*", r"(?:ir|un)reproducib\w+", r"reproducib\w+ "
        r"(?:problem|issue)s?",
         r"(?:equal|same|identical|two) runs?(?: \w+){0,3} (?:different|differ)\w*", r"different results?(?: \w+)? "
         r"(?:each|every) (?:run|time)", r"non ?deterministic\w*", r"(?:different|vary|varies|varying) (?:results? "
         r")?(?:between|across|from|every|each) (?:runs?|seeds?|time)",
         r"(?:runs?|seeds?) differ", r"depends? on the seed"),
        special=True,
    ),
    "step_time": Symptom(
        "steps take long",
        (r"(?:steps?|iterations?|epochs?) (?:is |are |take |takes |very )+(?:slow|long|too long|so long|forever)",
        r"gpu (?:util\w*|usage|load) (?:is )?(?:low|\d)",
         r"low gpu", r"throughput", r"(?:samples|tokens|iterations|steps) per second", r"gpu (?:is )?idle"),
        special=True,
    ),
    "clips_always": Symptom(
        "gradients are clipped at nearly every step",
        (r"(?:clip\w*)(?: \w+){0,3} (?:always|every step|each step|all the time|constantly|most steps)",
        r"always clip\w*"),
        special=True,
    ),
    "negative": Symptom("loss is negative", (r"negative loss", r"loss (?:is |becomes? |goes |turns |below "
    r")+(?:negative|zero and below|below (?:0|zero))"), special=True),
    "not_working": Symptom(
        "the training does not work",
        (r"(?:not|never) work\w*", r"bad (?:results?|accuracy)", r"poor (?:results?|accuracy|performance)",
        r"(?:low|bad) accuracy", r"fails?\b", r"failed", r"broken",
         r"accuracy (?:is |too |very )+(?:low|bad)", r"wrong results?",
         r"(?:terrible|awful)", r"loss (?:is |stays |remains )(?:too |very |still |really )*(?:high|large|big|bad)",
         r"(?:training|model|results?) (?:is |are |looks? |very |really )+(?:bad|poor)"),
    ),
}  # fmt: skip

NAMES = {symptom.title: name for name, symptom in SYMPTOMS.items()}
