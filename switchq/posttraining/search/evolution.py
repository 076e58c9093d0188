"""Evolutionary search: mutate and recombine the front's bitmaps under a size limit; nothing is assumed to add up.

After EvoPress (Sieberling et al., ICML 2025, arXiv:2410.14649): offspring are level switches of a parent at a fixed
size, and selection takes several steps, each with fewer offspring on more data. What differs here:
- the size limit is drawn anew in every generation, and the parent is the front's member below it, so that the whole
  front moves and not one point; every second limit lies just below the smallest bitmap that keeps the budget;
- some offspring are uniform crossovers of two members of the front;
- a switch need not be between layers of one size: a child is repaired to the limit by random single steps;
- the data of a selection step is a nested prefix of the search questions, so that its evaluations are kept;
- the run begins with more points of greedy search's path, at most one a generation, and ends with a local search
  below the chosen bitmap.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from switchq.bitmap import Bitmap
from switchq.posttraining.search.fill import fill_in
from switchq.posttraining.search.objective import Scored
from switchq.posttraining.search.space import Genome
from switchq.posttraining.search.study import Study

SHRINK = 3
"""The part of the offspring that goes on to the next selection step."""

CROSSOVER = 0.3
"""The part of the offspring that has two parents."""


@dataclass(frozen=True)
class Evolution:
    """The search.

    Attributes:
        generations: how many.
        population: offspring of each.
    """

    generations: int = 20
    population: int = 16

    def run(self, study: Study) -> None:
        """Improve the front that `study` has; at least one point of it must be in the space."""
        rng = np.random.default_rng([study.seed, 0xE70])
        fill_in(study, study.path, self.generations * study.objective.questions, negligible=0.0)
        ends = sorted(study.price(Bitmap.stripe([bits], len(study.space.names))) for bits in study.space.widths)
        low = study.space.smallest(study.cost)
        high = max(low, ends[-1])  # with one width they are one sum, taken in two orders
        for generation in range(self.generations):
            chosen = study.chosen()
            edge = generation % 2 == 0 and chosen is not None and study.price(chosen.bitmap) > low
            if edge and chosen is not None:
                top = study.price(chosen.bitmap)
                limit = top - (top - low) * float(rng.uniform(1e-6, 0.1))
            else:
                limit = float(rng.uniform(low, high))
            self._generation(study, rng, limit, edge)
        self._descend(study, rng)

    def _generation(self, study: Study, rng: np.random.Generator, limit: float, edge: bool) -> None:
        children = self._offspring(study, rng, limit)
        looks = study.objective.looks
        for look in looks[:-1]:
            if not children:
                return
            # stable: of equal children the one that was made first goes on
            ranked = sorted(children, key=lambda child: study.objective.loss(child, look))
            going_on = ranked[: max(1, len(ranked) // SHRINK)]
            if look == looks[-2] and not edge:
                going_on = [child for child in going_on if self._promising(study, child, look)]
            for child in children:
                if child not in going_on:
                    study.row(study.objective.score(child, look), False)
            children = going_on
        for child in children[:1]:
            if not edge or study.race(child):
                study.score(child)

    def _promising(self, study: Study, child: Bitmap, look: range) -> bool:
        """Whether no point that is as cheap was better on the same questions."""
        rivals = [point for point in study.front() if study.price(point.bitmap) <= study.price(child)]
        own = study.objective.loss(child, look)
        return all(study.objective.loss(rival.bitmap, look) >= own for rival in rivals[-1:])

    def _offspring(self, study: Study, rng: np.random.Generator, limit: float) -> list[Bitmap]:
        """New bitmaps within `limit`, none of them known."""
        members = study.genomes()
        if not members:
            return []
        below = [i for i, (_, scored) in enumerate(members) if study.price(scored.bitmap) <= limit]
        near = below[-1] if below else 0
        nearby = [members[i] for i in range(max(0, near - 1), min(len(members), near + 2))]
        made: dict[Bitmap, None] = {}
        for _ in range(8 * self.population):
            if len(made) == self.population:
                break
            genome = _pick(rng, nearby)
            if len(members) > 1 and rng.random() < CROSSOVER:
                genome = _cross(rng, genome, _pick(rng, members))
            child = _fit(study, rng, _mutate(study, rng, genome), limit)
            if child is not None and (bitmap := study.space.bitmap(child)) not in study.tried:
                made[bitmap] = None
        return list(made)

    def _descend(self, study: Study, rng: np.random.Generator) -> None:
        """From the chosen bitmap to any cheaper one a step or two away that keeps the budget, until there is none.

        No more tries than offspring of all generations together.
        """
        tries = self.generations * self.population
        improved = True
        while improved and tries > 0:
            improved = False
            chosen = study.chosen()
            genome = study.space.genome(chosen.bitmap) if chosen is not None else None
            if genome is None:
                return
            for candidate in _cheaper(study, rng, genome):
                bitmap = study.space.bitmap(candidate)
                if bitmap in study.verdicts or not study.fits(bitmap):
                    continue
                tries -= 1
                if study.race(bitmap):
                    study.score(bitmap)
                    improved = study.verdicts[bitmap]
                if improved or tries <= 0:
                    break


def _pick(rng: np.random.Generator, members: list[tuple[Genome, Scored]]) -> Genome:
    return members[int(rng.integers(len(members)))][0]


def _cross(rng: np.random.Generator, one: Genome, other: Genome) -> Genome:
    return tuple(a if rng.random() < 0.5 else b for a, b in zip(one, other))


def _mutate(study: Study, rng: np.random.Generator, genome: Genome) -> Genome:
    """Move one unit or a few to a neighbouring choice."""
    choices, changed = study.space.choices, list(genome)
    count = min(len(genome), 1 + int(rng.geometric(0.5)))
    for unit in rng.choice(len(genome), size=count, replace=False):
        at = choices.index(changed[unit])
        steps = [i for i in (at - 1, at + 1) if 0 <= i < len(choices)]
        changed[unit] = choices[steps[int(rng.integers(len(steps)))]]
    return tuple(changed)


def _fit(study: Study, rng: np.random.Generator, genome: Genome, limit: float) -> Genome | None:
    """`genome` with random single steps: cheaper ones until it keeps `limit`, then wider ones while there is room."""
    costs, choices = study.space.unit_costs(study.cost), study.space.choices
    picks = [choices.index(bits) for bits in genome]
    fixed = study.space.fixed_mb if study.cost == "weight_mb" else 0.0
    total = fixed + float(sum(costs[unit, pick] for unit, pick in enumerate(picks)))
    while total > limit + 1e-12:
        cheaper = [
            (unit, pick + step)
            for unit, pick in enumerate(picks)
            for step in (-1, 1)
            if 0 <= pick + step < len(choices) and costs[unit, pick + step] < costs[unit, pick]
        ]
        if not cheaper:
            return None
        unit, pick = cheaper[int(rng.integers(len(cheaper)))]
        total += costs[unit, pick] - costs[unit, picks[unit]]
        picks[unit] = pick
    for unit in rng.permutation(len(picks)):
        more = costs[unit, picks[unit] - 1] - costs[unit, picks[unit]] if picks[unit] > 1 else np.inf
        if total + more <= limit:
            total, picks[unit] = total + more, picks[unit] - 1
    return tuple(choices[pick] for pick in picks)


def _cheaper(study: Study, rng: np.random.Generator, genome: Genome) -> Iterator[Genome]:
    """Cheaper genomes that differ in one unit, cheapest first; then those that differ in two, in random order."""
    costs, choices = study.space.unit_costs(study.cost), study.space.choices
    picks = [choices.index(bits) for bits in genome]
    moves = [
        (float(costs[unit, to] - costs[unit, pick]), unit, to)
        for unit, pick in enumerate(picks)
        for to in range(len(choices))
        if to != pick
    ]

    def moved(*steps: tuple[float, int, int]) -> Genome:
        changed = dict(enumerate(genome)) | {unit: choices[to] for _, unit, to in steps}
        return tuple(changed.values())

    yield from (moved(move) for move in sorted(moves) if move[0] < 0)
    pairs = [(one, other) for one in moves for other in moves if one[1] < other[1] and one[0] + other[0] < -1e-12]
    for i in rng.permutation(len(pairs)):
        yield moved(*pairs[i])
