"""Code in 64-bit words, written as LLVM's instructions.

Numba takes a quarter of a second for a page of Python whose types are all int64, in every first step of a process
without kernels on disk. Such code is short enough to be written as what it becomes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

WORD = ir.IntType(64)
_INT, _BYTE = ir.IntType(32), ir.IntType(8)


class Words:
    """Writes instructions. Values are words, or numbers that become constants; addresses are words, too."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def of(self, value: Any) -> Any:
        """A word."""
        return ir.Constant(WORD, value) if isinstance(value, int) else value

    def load(self, address: Any, index: Any = 0) -> Any:
        """The word at an address, so many words further."""
        return self.builder.load(self._pointer(address, index))

    def store(self, value: Any, address: Any, index: Any = 0) -> None:
        """Write a word there."""
        self.builder.store(self.of(value), self._pointer(address, index))

    def variable(self, value: Any) -> Variable:
        """A word that changes."""
        return Variable(self, value)

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.add(self.of(a), self.of(b))

    def multiply(self, a: Any, b: Any) -> Any:
        return self.builder.mul(self.of(a), self.of(b))

    def least(self, a: Any, b: Any) -> Any:
        return self.where(self.compare(a, "<", b), a, b)

    def low_half(self, a: Any) -> Any:
        """Its lower 32 bits."""
        return self.builder.and_(self.of(a), self.of(0xFFFFFFFF))

    def compare(self, a: Any, how: str, b: Any) -> Any:
        """A truth value: 1 bit."""
        return self.builder.icmp_signed(how, self.of(a), self.of(b))

    def either(self, a: Any, b: Any) -> Any:
        return self.builder.or_(a, b)

    def both(self, a: Any, b: Any) -> Any:
        return self.builder.and_(a, b)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return self.builder.select(condition, self.of(a), self.of(b))

    def if_(self, condition: Any) -> Any:
        """Context manager: what is written inside happens only then."""
        return self.builder.if_then(condition)

    @contextmanager
    def loop(self, count: Any) -> Iterator[Any]:
        """What is written inside happens for each number below `count`."""
        index = self.variable(0)
        head = self.builder.append_basic_block("head")
        body, end = self.builder.append_basic_block("body"), self.builder.append_basic_block("end")
        self.builder.branch(head)
        self.builder.position_at_end(head)
        self.builder.cbranch(self.compare(index.value, "<", count), body, end)
        self.builder.position_at_end(body)
        yield index.value
        index.set(self.add(index.value, 1))
        self.builder.branch(head)
        self.builder.position_at_end(end)

    def call(self, function: Any, *values: Any, result: Any = WORD) -> Any:
        """Call a function at an address that takes and returns words, or an `int` or a `bool`."""
        kind = ir.FunctionType(result, [WORD] * len(values))
        pointer = self.builder.inttoptr(self.of(function), kind.as_pointer())
        return self.builder.call(pointer, list(map(self.of, values)))

    def fails(self, function: Any, *values: Any) -> Any:
        """Whether a function returns another `int` than 0."""
        return self.builder.icmp_signed("!=", self.call(function, *values, result=_INT), ir.Constant(_INT, 0))

    def is_true(self, function: Any, *values: Any) -> Any:
        """Whether a function returns the `bool` true."""
        return self.builder.trunc(self.call(function, *values, result=_BYTE), ir.IntType(1))

    def fetch(self, address: Any) -> None:
        """Ask for the line of the cache at an address, which may be any: it is needed soon."""
        byte = _BYTE.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _INT, _INT, _INT])
        prefetch = self.builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        hints = [ir.Constant(_INT, number) for number in (0, 3, 1)]  # to be read, often, data
        self.builder.call(prefetch, [self.builder.inttoptr(self.of(address), byte), *hints])

    def _pointer(self, address: Any, index: Any) -> Any:
        return self.builder.gep(self.builder.inttoptr(self.of(address), WORD.as_pointer()), [self.of(index)])


class Variable:
    """A word that changes; it is in a register where it can be."""

    def __init__(self, words: Words, value: Any) -> None:
        self._words = words
        with words.builder.goto_entry_block():
            self._place = words.builder.alloca(WORD)
        self.set(value)

    @property
    def value(self) -> Any:
        """As it is now."""
        return self._words.builder.load(self._place)

    def set(self, value: Any) -> None:
        """Change it."""
        self._words.builder.store(self._words.of(value), self._place)

    @property
    def address(self) -> Any:
        """Where a function can write it."""
        return self._words.builder.ptrtoint(self._place, WORD)
