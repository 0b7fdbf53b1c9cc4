"""Checkpoints, samplers and target networks: SW501 to SW504."""

from __future__ import annotations

from lint import additions
from lint.drafts import Draft, Planted
from lint.scripts import NoPlace, Script, is_optimizer, receiver
from lint.updates import updates
from lint.variants import plants


@plants("SW501", additions.resume)
def optimizer_saved_and_not_loaded(script: Script) -> Planted:
    loads = [one for one, call in script.calls("load_state_dict") if is_optimizer(receiver(call))]
    if not loads:
        raise NoPlace
    draft = Draft(script)
    draft.delete(*loads)
    draft.mark(*(script.statement(call) for call in script.all_calls("load_state_dict")))
    draft.mark(*(script.statement(call) for call in script.all_calls("load")))
    draft.mark(*(script.statement(call) for call in script.all_calls("save")))
    return draft.finish()


@plants("SW503", additions.sampler)
def set_epoch_forgotten(script: Script) -> Planted:
    calls = [one for one, _ in script.calls("set_epoch")]
    if not calls:
        raise NoPlace
    draft = Draft(script)
    draft.delete(*calls)
    draft.mark(*(script.statement(call) for call in script.all_calls("DistributedSampler")))
    draft.mark(*script.loops(calls[0]))
    return draft.finish()


@plants("SW504", additions.target_network)
def target_in_a_list_of_parameters(script: Script) -> Planted:
    return _with_target(script, "list({parameters}) + list(target.parameters())")


@plants("SW504", additions.target_network)
def target_in_a_group(script: Script) -> Planted:
    return _with_target(script, '[{{"params": {parameters}}}, {{"params": target.parameters()}}]')


def _with_target(script: Script, form: str) -> Planted:
    make = updates(script)[-1].make()
    draft = Draft(script)
    draft.replace(make.parameters, form.format(parameters=script.text(make.parameters)), marked=True)
    draft.mark(make.statement)
    return draft.finish()
