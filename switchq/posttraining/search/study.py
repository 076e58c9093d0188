"""What the methods of a search share: the space, the objective, the table, and all points found so far."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from switchq.bitmap import FULL, Bitmap, ladder
from switchq.posttraining.search.bracket import bracket
from switchq.posttraining.search.front import Point, pareto
from switchq.posttraining.search.objective import Objective, Scored
from switchq.posttraining.search.race import race
from switchq.posttraining.search.space import Cost, Genome, Space
from switchq.posttraining.search.trials import Trials


@dataclass
class Study:
    """One search.

    Attributes:
        space: what may be chosen.
        objective: how good a choice is.
        trials: the table of all that was tried.
        cost: what the front is drawn over.
        limits: upper limits of the chosen bitmap's costs.
        seed: of everything random.
        method: who is at work, for the table.
        points: every bitmap that was evaluated on all questions, in the order found.
        found_by: who found it first.
        verdicts: whether a bitmap keeps the budget, as far as that was asked.
        tried: every bitmap that has a row in the table.
        path: the steps that greedy search accepted, from full precision on.
        written: method, bitmap and number of questions of every row.
        hits: how often a bitmap was asked for that was decided already, by method.
    """

    space: Space
    objective: Objective
    trials: Trials
    cost: Cost = "average_bits"
    limits: dict[Cost, float] = field(default_factory=dict)
    seed: int = 0
    method: str = "references"
    points: dict[Bitmap, Scored] = field(default_factory=dict)
    found_by: dict[Bitmap, str] = field(default_factory=dict)
    verdicts: dict[Bitmap, bool] = field(default_factory=dict)
    tried: set[Bitmap] = field(default_factory=set)
    hits: Counter[str] = field(default_factory=Counter)
    path: list[Bitmap] = field(default_factory=list)
    written: set[tuple[str, Bitmap, int]] = field(default_factory=set)

    def start(self, method: str) -> None:
        """Count and name under `method` from here on."""
        self.method = self.objective.phase = method

    def references(self) -> None:
        """Evaluate full precision and the uniform and striped bitmaps: every front is held against them."""
        for written in references(self.space.widths):
            self.score(Bitmap.parse(written, self.space.names))

    def score(self, bitmap: Bitmap) -> Scored:
        """Evaluate on all questions, and keep the point."""
        self.hits[self.method] += bitmap in self.points
        scored = self.objective.score(bitmap)
        self.verdicts[bitmap] = within = self.objective.within(bitmap)
        if bitmap not in self.points:
            self.points[bitmap] = scored
            self.found_by[bitmap] = self.method
        self.row(scored, within)
        return scored

    def race(self, bitmap: Bitmap) -> bool:
        """Whether it keeps the budget, by as few questions as that takes; asked again, the answer is the same."""
        if bitmap in self.verdicts:
            self.hits[self.method] += 1
        else:
            self._judged(bitmap, *race(self.objective, bitmap))
        return self.verdicts[bitmap]

    def bracket(self, bitmap: Bitmap, allowance: int) -> bool:
        """The same from what is known of wider and narrower bitmaps; the answer may change as more is known.

        A bitmap for which `allowance` question evaluations are too few is refused.
        """
        accepted, rows = bracket(self.objective, bitmap, allowance)
        if accepted is not None and rows:
            self._judged(bitmap, accepted, rows)
        elif rows:
            self.row(self.objective.score(bitmap, rows), False)
        return bool(accepted)

    def _judged(self, bitmap: Bitmap, accepted: bool, rows: Sequence[int]) -> None:
        if len(rows) == self.objective.questions:
            self.score(bitmap)
        else:
            self.verdicts[bitmap] = accepted
            self.row(self.objective.score(bitmap, rows), accepted)

    def row(self, scored: Scored, accepted: bool) -> None:
        """Add to the table; a method that asks again on the same questions adds no second row."""
        key = self.method, scored.bitmap, scored.questions
        if key in self.written:
            return
        self.written.add(key)
        self.tried.add(scored.bitmap)
        metric = self.objective.metric
        full = self.objective.score(self.space.bitmap(self.space.full), scored.rows)
        figures = dict(scored.figures)
        reference = full.figures[metric.name]
        self.trials.add(
            {
                "bitmap": str(scored.bitmap),
                **figures,
                "drop": metric.drop(figures[metric.name], reference) if reference or metric.name == "KL" else None,
                "average_bits": self.space.average_bits(scored.bitmap),
                "weight_mb": self.space.weight_mb(scored.bitmap),
                "tokens_per_s": scored.tokens_per_s,
                "accepted": accepted,
                "method": self.method,
                "questions": scored.questions,
            }
        )

    def price(self, bitmap: Bitmap) -> float:
        """The cost of a bitmap."""
        return self.space.cost(bitmap, self.cost)

    def point(self, scored: Scored) -> Point:
        """Cost and loss."""
        metric = self.objective.metric
        return self.price(scored.bitmap), metric.loss(scored.figures[metric.name])

    def front(self) -> list[Scored]:
        """The Pareto front of all points, cheapest first."""
        return pareto(self.points.values(), self.point)

    def chosen(self) -> Scored | None:
        """The cheapest point within the budget and the limits, the better one of equals; None if there is none."""
        return min((one for bitmap, one in self.points.items() if self.keeps(bitmap)), key=self.point, default=None)

    def keeps(self, bitmap: Bitmap) -> bool:
        """Whether a bitmap that was evaluated on all questions keeps the budget and the limits."""
        return self.verdicts[bitmap] and self.fits(bitmap)

    def fits(self, bitmap: Bitmap) -> bool:
        """Whether the limits are kept."""
        return all(self.space.cost(bitmap, of) <= limit + 1e-9 for of, limit in self.limits.items())

    def genomes(self) -> list[tuple[Genome, Scored]]:
        """The points of the front that the space holds (with blocks as units, stripes are none)."""
        return [(found, one) for one in self.front() if (found := self.space.genome(one.bitmap)) is not None]


def references(widths: tuple[int, ...]) -> tuple[str, ...]:
    """Full precision and the ladder of `widths`."""
    return (str(FULL), *ladder(widths))
