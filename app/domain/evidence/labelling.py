"""Labelled answers of two versions into one batch of label evidence: which of them were wrong, by how much, and
in which order they put their positives.

Reads answers as `app.domain.performance` does. Takes mature labels only, at the same age in both arms: the caller
sees to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.domain.evidence.engine import LabelBatch, Labelled
from app.domain.evidence.labels import Confusion, brier, log_loss, misordered
from app.domain.outcome import GroundTruth, as_binary, as_class
from app.domain.performance.row import Answer, binary_answer, number

TINY = 1e-3  # probability at which a log loss is cut
LOSSES = ("brier", "log_loss", "absolute_error")
BY_TASK = {
    "binary": ("accuracy",),
    "multiclass": ("accuracy",),
    "regression": ("absolute_error",),
    "none": (),
}


@dataclass(frozen=True, slots=True)
class Answered:
    """One version's answer and what turned out to be true."""

    prediction: Answer | None
    confidence: float | None
    ground_truth: GroundTruth


@dataclass(frozen=True, slots=True)
class Judged:
    """What an answer is worth. None: it says nothing about that."""

    wrong: bool | None = None
    loss: float | None = None
    probability: float | None = None  # of the positive class
    positive: bool | None = None
    said_positive: bool | None = None


def judged(answer: Answered, task: str, loss: str = "") -> Judged:
    """Read one answer; an unreadable one is judged as nothing."""
    match task:
        case "binary":
            return _binary(answer, loss)
        case "multiclass" if answer.prediction is not None:
            return Judged(wrong=as_class(answer.prediction) != as_class(answer.ground_truth))
        case "regression":
            said, true = number(answer.prediction), number(answer.ground_truth)
            return Judged() if said is None or true is None else Judged(loss=abs(said - true))
    return Judged()


def _binary(answer: Answered, loss: str) -> Judged:
    true = as_binary(answer.ground_truth)
    said = binary_answer(answer.prediction, answer.confidence)
    if true is None or said is None:
        return Judged()
    kind, probability = said
    value = None
    if probability is not None and loss == "brier":
        value = brier(probability, bool(true))
    elif probability is not None and loss == "log_loss":
        value = log_loss(probability, bool(true), TINY)
    return Judged(kind != true, value, probability, bool(true), bool(kind))


def loss_of(kinds: Sequence[str]) -> str:
    """The loss among the kinds asked for; empty without one."""
    return next((kind for kind in kinds if kind in LOSSES), "")


@dataclass(frozen=True, slots=True)
class Answers:
    """What became mature since the last look. Pairs are (candidate's, production's) on one request."""

    shadowed: Sequence[tuple[Answered, Answered]] = ()  # production answered the client
    mirrored: Sequence[tuple[Answered, Answered]] = ()  # the candidate did; also among its answers below
    candidate: Sequence[Answered] = ()  # to clients, under one percentage
    production: Sequence[Answered] = ()


def label_batch(source: str, tick: int, answers: Answers, task: str, kinds: Sequence[str]) -> LabelBatch:
    """The evidence in them."""
    loss = loss_of(kinds)

    def read(some: Iterable[Answered]) -> list[Judged]:
        return [judged(one, task, loss) for one in some]

    shadowed = [(judged(c, task, loss), judged(p, task, loss)) for c, p in answers.shadowed]
    both = shadowed + [(judged(c, task, loss), judged(p, task, loss)) for c, p in answers.mirrored]
    candidate, production = read(answers.candidate), read(answers.production)
    told = [(c, p) for c, p in both if c.wrong is not None and p.wrong is not None]
    own = [*candidate, *(c for c, _ in shadowed)]
    only_candidate, only_production = _misordered_pairs(both)
    return LabelBatch(
        source,
        tick,
        _arm(candidate),
        _arm(production),
        only_candidate_wrong=sum(bool(c.wrong) and not p.wrong for c, p in told),
        only_production_wrong=sum(bool(p.wrong) and not c.wrong for c, p in told),
        only_candidate_misordered=only_candidate,
        only_production_misordered=only_production,
        losses=[(c.loss, p.loss) for c, p in both if c.loss is not None and p.loss is not None],
        confusion=Confusion(
            sum(bool(one.positive and one.said_positive) for one in own),
            sum(bool(one.said_positive and not one.positive) for one in own),
            sum(bool(one.positive and not one.said_positive) for one in own),
        ),
        answers=sum(one.wrong is not None or one.loss is not None for one in own),
    )


def _arm(answers: Sequence[Judged]) -> Labelled:
    told = [one.wrong for one in answers if one.wrong is not None]
    scored = [(one.probability, one.positive) for one in answers if one.probability is not None]
    ordered, wrong = misordered([p for p, true in scored if true], [p for p, true in scored if not true])
    losses = [one.loss for one in answers if one.loss is not None]
    return Labelled(len(told), sum(told), losses, ordered, wrong)


def _misordered_pairs(pairs: Sequence[tuple[Judged, Judged]]) -> tuple[int, int]:
    """Disjoint (positive, negative) couples of requests that both versions scored: those that only the candidate,
    and only production, put in the wrong order.
    """
    scored = [
        (c.probability, p.probability, c.positive)
        for c, p in pairs
        if c.probability is not None and p.probability is not None
    ]
    positives = [(c, p) for c, p, true in scored if true]
    negatives = [(c, p) for c, p, true in scored if not true]
    only_candidate = only_production = 0
    for (c1, p1), (c0, p0) in zip(positives, negatives, strict=False):
        candidate, production = c1 <= c0, p1 <= p0
        only_candidate += candidate and not production
        only_production += production and not candidate
    return only_candidate, only_production
