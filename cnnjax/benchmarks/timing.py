"""Honest seconds: warmed up, waited for, and interleaved with the peer's."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

Call = Callable[[], Any]  # does the work once and returns when it is finished


def interleave(contestants: Mapping[str, Call], repetitions: int, calls: int = 1) -> dict[str, list[float]]:
    """Seconds of one call of each contestant, once per repetition, in turns: A B A B.

    What changes slowly on a shared machine then meets all alike. A turn is one call that is not timed, which
    brings data and threads back from the other's turn, and the mean of `calls` calls.
    """
    for call in contestants.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repetitions):
        for name, call in contestants.items():
            call()
            began = time.perf_counter()
            for _ in range(calls):
                call()
            seconds[name].append((time.perf_counter() - began) / calls)
    return seconds


def comparison(seconds: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The values of a record: milliseconds of each contestant and, per repetition, each peer's over the first's.

    A ratio above 1 says that the first is faster.
    """
    ours, *peers = seconds
    values = {f"{name}, ms": [1e3 * s for s in series] for name, series in seconds.items()}
    for peer in peers:
        values[f"{peer} / {ours}"] = [b / a for a, b in zip(seconds[ours], seconds[peer], strict=True)]
    return values


@contextlib.contextmanager
def without_compilation_cache() -> Iterator[None]:
    """Inside, every compilation is a real one."""
    settings: Any = jax.config
    before = settings.jax_enable_compilation_cache
    compilation_cache.reset_cache()
    settings.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        settings.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def compiled(function: Any, *arguments: Any) -> tuple[Any, float]:
    """A jitted function compiled for these arguments, and the seconds that tracing and compiling took."""
    with without_compilation_cache():
        began = time.perf_counter()
        program = function.lower(*arguments).compile()
        return program, time.perf_counter() - began
