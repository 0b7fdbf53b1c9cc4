"""The loop that asks tensors where they lie (engine/libtorch.py)."""

from __future__ import annotations

from typing import Any

from numba import types

from stepwell.engine.kernels.cpu_intrinsics import llvm
from stepwell.engine.kernels.look_job import Function, Kind, Word
from stepwell.engine.kernels.words import WORD, Words

_AHEAD = 8  # tensors


@llvm(types.void, types.voidptr)
def look(builder: Any, pointer: Any) -> None:
    """Look at the tensors of a job.

    After a kernel the caches hold weights and no TensorImpl, so those of the tensors that come next are asked for.
    """
    words = Words(builder)
    job = builder.ptrtoint(pointer, WORD)
    kind, count, given = (words.load(job, word) for word in (Word.KIND, Word.COUNT, Word.GIVEN))
    addresses, found, none = (words.load(job, word) for word in (Word.ADDRESSES, Word.FOUND, Word.NONE))
    holders, strided = words.load(job, Word.HOLDERS), words.load(job, Word.STRIDED)
    last, strange = words.add(count, -1), words.variable(0)

    def function(which: int) -> Any:
        return words.load(job, Word.FUNCTIONS + which)

    def fetch_tensor(tensors: Any, k: Any) -> None:
        impl = words.load(tensors, words.least(words.add(k, _AHEAD), last))
        for line in range(4):
            words.fetch(words.add(impl, 64 * line))

    def fetch_storage(tensors: Any, k: Any) -> None:
        # The third word of a TensorImpl. If it is not, nothing is gained, and nothing lost.
        words.fetch(words.load(words.load(tensors, words.least(words.add(k, _AHEAD // 2), last)), 2))

    def look_at(k: Any, handle: Any) -> Any:
        return _look_at(words, job, function, k, handle)

    def keep(k: Any, result: Any) -> None:
        words.store(result, found, k)
        is_strange = words.either(words.compare(result, "==", 1), words.compare(result, "==", 2))
        strange.set(words.add(strange.value, words.where(is_strange, 1, 0)))

    with words.if_(words.compare(kind, "==", Kind.TENSORS)), words.loop(count) as k:
        fetch_tensor(given, k)
        fetch_storage(given, k)
        keep(k, look_at(k, words.add(given, words.multiply(k, 8))))

    with words.if_(words.compare(kind, "==", Kind.CAPSULES)), words.loop(count) as k:
        handle = words.call(function(Function.POINTER_OF_CAPSULE), words.load(given, k), 0)
        keep(k, look_at(k, handle))
        words.fails(function(Function.DELETE), handle)

    with words.if_(words.compare(kind, "==", Kind.PARAMETERS)):
        with words.loop(count) as k:
            fetch_tensor(given, k)
            gradient = words.call(function(Function.GRAD), words.load(given, k))
            is_defined = words.variable(0)
            words.fails(function(Function.IS_DEFINED), gradient, is_defined.address)
            absent = words.compare(is_defined.value, "==", 0)
            words.store(words.where(absent, none, gradient), found, k)  # a handle, for now
            words.store(words.load(words.load(found, k)), addresses, k)  # a TensorImpl, for now
        with words.loop(count) as k:
            fetch_tensor(addresses, k)
            fetch_storage(addresses, k)
            result, gradient = words.variable(3), words.load(found, k)
            holder = words.add(holders, words.multiply(k, 8))
            with words.if_(words.compare(gradient, "!=", none)):
                words.fails(function(Function.ASSIGN), gradient, holder)
                layout = words.variable(0)
                words.fails(function(Function.LAYOUT), holder, layout.address)
                # Some layouts have no address to ask for; a negated view has numbers of the other sign.
                unusual = words.compare(words.low_half(layout.value), "!=", strided)
                unusual = words.either(unusual, words.is_true(function(Function.IS_NEGATED), holder))
                result.set(1)
                with words.if_(builder.not_(unusual)):
                    result.set(look_at(k, holder))
            with words.if_(words.compare(result.value, "!=", 0)):
                words.store(0, addresses, k)
            keep(k, result.value)

    with words.if_(words.compare(kind, "==", Kind.RELEASE)), words.loop(count) as k:
        words.fetch(words.load(holders, words.least(words.add(k, _AHEAD), last)))
        words.fails(function(Function.ASSIGN), none, words.add(holders, words.multiply(k, 8)))

    words.store(strange.value, words.load(job, Word.ANSWER))


def _look_at(words: Words, job: Any, function: Any, k: Any, handle: Any) -> Any:
    """What is found of one tensor, 0, 1 or 2 (pointers.py); its address is written."""
    layout = words.add(words.load(job, Word.LAYOUTS), words.multiply(words.load(words.load(job, Word.STARTS), k), 8))
    result, failed = words.variable(0), words.variable(0)

    def answer(which: Any) -> Any:
        place = words.variable(0)
        failed.set(words.where(words.fails(function(which), handle, place.address), 1, failed.value))
        return place.value

    def differs(condition: Any) -> None:
        result.set(words.where(condition, 1, result.value))

    address = answer(Function.DATA_PTR)
    words.store(address, words.load(job, Word.ADDRESSES), k)
    for place, which in enumerate((Function.DTYPE, Function.DEVICE_TYPE, Function.DEVICE_INDEX, Function.DIM)):
        differs(words.compare(words.low_half(answer(which)), "!=", words.low_half(words.load(layout, 2 + place))))
    dimensions = words.load(layout, 5)
    for place, which in enumerate((Function.SIZES, Function.STRIDES)):
        expected = words.add(layout, words.multiply(words.add(6, words.multiply(dimensions, place)), 8))
        # of a tensor that has as many
        with words.if_(words.compare(words.add(result.value, failed.value), "==", 0)):
            numbers = answer(which)
            with words.if_(words.compare(failed.value, "==", 0)), words.loop(dimensions) as d:
                differs(words.compare(words.load(numbers, d), "!=", words.load(expected, d)))
    size, offset, reach = answer(Function.STORAGE_SIZE), answer(Function.STORAGE_OFFSET), words.load(layout, 0)
    end = words.add(words.multiply(offset, words.load(layout, 1)), reach)
    outside = words.either(words.compare(end, ">", size), words.compare(address, "==", 0))
    outside = words.both(outside, words.compare(reach, ">", 0))
    outside = words.both(outside, words.compare(result.value, "==", 0))
    outside = words.either(outside, words.compare(failed.value, "!=", 0))
    return words.where(outside, 2, result.value)
