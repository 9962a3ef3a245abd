"""Changes made to diffusers' module and to ours, at four moments of ours, and how the answers compare.

KINEOGRAPH_MUTATIONS=all (`make mutation`) makes every change at every moment, and after compilation each change of each
kind of attribute once; otherwise a seeded sample in which every kind of attribute is changed at least once.
KINEOGRAPH_MUTATIONS_SEED draws another sample.
"""

import copy
import functools
import os
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import kineograph
import torch
from kineograph.diffusers import acceleration
from mutations import Mutation, mutations
from temporal_modules import answer, difference

EVERYTHING = os.environ.get("KINEOGRAPH_MUTATIONS") == "all"
SEED = int(os.environ.get("KINEOGRAPH_MUTATIONS_SEED", "0"))
PARTS = 8 if EVERYTHING else 1  # of the changes of a configuration: each part a test, of a few minutes
MOMENTS = ("before", "after", "after a forward", "compiled")
SAMPLED_COMPILED = 3  # changes of all configurations together; a graph takes a second
# Graphs of one function that torch.compile keeps; beyond its limit it would run without any, and hide what they do.
GRAPHS = 24

UNTOUCHED = Mutation("", "nothing", "untouched", lambda model: None)


@dataclass(frozen=True)
class Configuration:
    """A module of diffusers, and a call of it whose answer is a tensor.

    Attributes:
        make: gives the module, the same each time.
        call: of (module, whether gradients are wanted).
        gradients: whether its gradients are native; the spatial transformers' and those in windows are diffusers'.
    """

    make: Callable[[], torch.nn.Module]
    call: Callable[[Any, bool], torch.Tensor]
    gradients: bool = True


@dataclass(frozen=True)
class Theirs:
    """diffusers' answer to a change, and whether its forward draws: natively others are drawn than by torch."""

    could: bool
    answer: Any
    draws: bool


def could(mutation: Mutation, model: torch.nn.Module) -> bool:
    """Makes a change. False for one that cannot be made: dictionaries that refuse to be written to, say."""
    try:
        mutation.change(model)
    except Exception:
        return False
    return True


@contextmanager
def _one_thread() -> "Iterator[None]":
    """For models as small as these more threads are slower."""
    theirs = torch.get_num_threads()
    torch.set_num_threads(1)
    kineograph.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(theirs)
        kineograph.set_num_threads(0)


@contextmanager
def _quiet(gradients: bool) -> "Iterator[None]":
    with warnings.catch_warnings(), torch.set_grad_enabled(gradients):
        warnings.simplefilter("ignore")
        yield


class Trials:
    """The changes of one configuration. diffusers' answer to a change is computed once, for all moments."""

    def __init__(self, configuration: Configuration):
        self.configuration = configuration
        self.made = configuration.make()
        self.mutations = mutations(self.made)
        self._last: Any = (None, None)
        self._graphs = GRAPHS

    def theirs(self, mutation: Mutation, gradients: bool) -> Theirs:
        if self._last[0] != (id(mutation), gradients):
            model = copy.deepcopy(self.made)
            done = could(mutation, model)
            given = answer(lambda one: self.configuration.call(one, gradients), model) if done else None
            draws = any(isinstance(one, torch.nn.Dropout) and one.training and one.p > 0 for one in model.modules())
            self._last = ((id(mutation), gradients), Theirs(done, given, draws))
        return self._last[1]

    def tried(self, mutation: Mutation, moment: str) -> "tuple[str | None, str]":
        """(difference or None, what our side did) of one change at one moment."""
        compiled = moment == "compiled"
        gradients = not compiled and self.configuration.gradients
        with _quiet(gradients):
            wanted = self.theirs(mutation, gradients)
            ours, found = self._ours(mutation, moment, gradients)
            stats = kineograph.stats(reset=True)
            if not wanted.could or ours is None:
                return None if wanted.could == (ours is not None) else "made to one side only", "cannot be made"
            did = "raised" if isinstance(found, Exception) else "native" if stats.native else "fell back"
            off = difference(wanted.answer, found)
            if off is not None and wanted.draws and did == "native" and not isinstance(wanted.answer, Exception):
                off = None if wanted.answer.shape == found.shape and wanted.answer.dtype == found.dtype else off
            if off is not None and compiled:
                off = difference(self._compiled_of_diffusers(mutation), found) and off
        # Modules that accelerate said stay diffusers' own are not counted.
        said = not isinstance(ours, tuple(acceleration.NATIVE.values()))
        if off is None and did == "fell back" and not stats.fallbacks and not compiled and not said:
            off = "neither native nor counted"
        return off, did

    def _ours(self, mutation: Mutation, moment: str, gradients: bool) -> "tuple[Any, Any]":
        """(our module or None where the change cannot be made, its answer after it)."""
        ours = run = copy.deepcopy(self.made)
        call = functools.partial(answer, lambda one: self.configuration.call(one, gradients))
        if moment != "before":
            kineograph.accelerate(ours)
        if moment == "compiled":
            self._graphs += 2  # a change makes one more, and one where the untouched module's is not there yet
            if self._graphs >= GRAPHS:
                torch._dynamo.reset()
                self._graphs = 0
            run = torch.compile(ours, backend="eager")
        if moment in ("after a forward", "compiled"):
            call(run)
        if not could(mutation, ours):
            return None, None
        if moment == "before":
            kineograph.accelerate(ours)
        kineograph.stats(reset=True)
        return ours, call(run)

    def _compiled_of_diffusers(self, mutation: Mutation) -> Any:
        """The second right answer: of diffusers' module under torch.compile, which misses changes, of hooks say."""
        theirs = copy.deepcopy(self.made)
        torch._dynamo.reset()
        self._graphs = GRAPHS
        compiled = torch.compile(theirs, backend="eager")
        answer(lambda one: self.configuration.call(one, False), compiled)
        mutation.change(theirs)
        return answer(lambda one: self.configuration.call(one, False), compiled)

    def run(self, plan: "list[tuple[Mutation, str]]") -> "tuple[Counter[str], list[str]]":
        """(how often our side did what, every silent difference)."""
        counts: Counter[str] = Counter()
        silent = []
        limits = torch._dynamo.config.patch(recompile_limit=GRAPHS, accumulated_recompile_limit=100 * GRAPHS)
        with limits, _one_thread():
            for moment in sorted({"after", *(moment for _, moment in plan)}):
                off, did = self.tried(UNTOUCHED, moment)
                if (off, did) != (None, "native"):
                    silent.append(f"nothing is changed, {moment}: {did}, {off}")
            for mutation, moment in plan:
                off, did = self.tried(mutation, moment)
                counts[did] += 1
                if off is not None:
                    silent.append(f"{mutation}, {moment}: {did}, {off}")
        torch._dynamo.reset()
        return counts, silent


def _by_kind(found: "list[Mutation]") -> "dict[tuple[str, str], list[Mutation]]":
    kinds: dict[tuple[str, str], list[Mutation]] = {}
    for mutation in found:
        kinds.setdefault((mutation.kind, mutation.how), []).append(mutation)
    return kinds


class Plans:
    """Which changes of some configurations are made, and when."""

    def __init__(self, configurations: "dict[str, Configuration]"):
        self.names = list(configurations)
        self.trials = functools.lru_cache(None)(lambda name: Trials(configurations[name]))

    @functools.cached_property
    def _kinds(self) -> "dict[str, dict[tuple[str, str], list[Mutation]]]":
        return {name: _by_kind(self.trials(name).mutations) for name in self.names}

    def of(self, name: str, part: int) -> "list[tuple[Mutation, str]]":
        """The changes of one part of a configuration, in the order in which they are made."""
        if not EVERYTHING:
            return self._sampled[name]
        # Each change of each kind of attribute is compiled once, in the first configuration that has it.
        before = self.names[: self.names.index(name)]
        seen = {change for earlier in before for change in self._kinds[earlier]}
        compiled = [same[0] for change, same in self._kinds[name].items() if change not in seen]
        plan = [(mutation, moment) for mutation in self.trials(name).mutations[part::PARTS] for moment in MOMENTS[:3]]
        return plan + [(mutation, "compiled") for mutation in compiled[part::PARTS]]

    @functools.cached_property
    def _sampled(self) -> "dict[str, list[tuple[Mutation, str]]]":
        draw = random.Random(SEED)
        chosen: dict[str, list[tuple[Mutation, str]]] = {name: [] for name in self.names}
        for attribute in sorted({kind for found in self._kinds.values() for kind, _ in found}):
            having = [name for name, found in self._kinds.items() if any(kind == attribute for kind, _ in found)]
            name = draw.choice(having)
            hows = [how for kind, how in self._kinds[name] if kind == attribute]
            mutation = draw.choice(self._kinds[name][attribute, draw.choice(hows)])
            chosen[name].append((mutation, draw.choice(MOMENTS[:3])))
        for name in draw.sample(self.names, SAMPLED_COMPILED):
            chosen[name].append((draw.choice(self.trials(name).mutations), "compiled"))
        return chosen


def check(plans: Plans, name: str, part: int, capsys: Any) -> None:
    """Runs one part of a configuration, and prints what came of it."""
    counts, silent = plans.trials(name).run(plans.of(name, part))
    with capsys.disabled():
        print(f"\n{name}: {sum(counts.values())} changes: {dict(counts)}, {len(silent)} differ", flush=True)
    assert not silent, "\n".join(silent)
