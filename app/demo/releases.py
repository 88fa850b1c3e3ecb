"""The demo's world and its models: cell samples from scikit-learn's breast-cancer data, and classifiers
trained on them.

The data are the Wisconsin diagnostic breast cancer set (Wolberg, Street and Mangasarian, 1995; UCI Machine
Learning Repository, CC BY 4.0), which ships with scikit-learn. Half of its 569 samples train the first
models. The others are patients in the field: clients send their samples again and again, each time measured
with a little noise; half of them come only later, so that no model has met them before. Nothing here may
know which model answered: the truth of a case comes from the data alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from app.demo.model_server import ModelFile

NOISE = 0.1  # of a measurement, in standard deviations of the feature
SPLIT_SEED = 7  # the same halves in every process: what trains a model never comes from the field
FEW_FEATURES = ("mean_texture", "mean_compactness")
Matrix = np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One sample as a client measures it, and what the pathologist will say later: 1 benign, 0 malignant."""

    features: dict[str, float]
    truth: int


class World:
    """Draws cases. `magnification` is how much larger than in training the scanner measures lengths
    (areas: squared).
    """

    def __init__(self, seed: int, noise: float = NOISE) -> None:
        data = load_breast_cancer()
        self.features: tuple[str, ...] = tuple(str(name).replace(" ", "_") for name in data.feature_names)
        self.magnification = 1.0
        self._chance = np.random.default_rng(seed)
        order = np.random.default_rng(SPLIT_SEED).permutation(len(data.target))
        training, self._field, self._later = np.split(order, [len(order) // 2, len(order) * 3 // 4])
        self.training_rows: Matrix = data.data[training]
        self.training_truth: Matrix = data.target[training]
        self._rows: Matrix = data.data
        self._truth: Matrix = data.target
        self._noise: Matrix = noise * self.training_rows.std(axis=0)
        self._powers = np.array([_power_of_length(name) for name in self.features])

    def meet_later_patients(self) -> None:
        """From now on cases come from samples that were not in the field before."""
        self._field = self._later

    def cases(self, count: int) -> list[Case]:
        """`count` samples of the field, resampled with noise, at the present magnification."""
        picks = self._chance.choice(self._field, size=count)
        noise = self._noise * self._chance.standard_normal((count, len(self.features)))
        rows = np.abs(self._rows[picks] + noise) * self.magnification**self._powers
        return [
            Case(dict(zip(self.features, map(float, row.round(5)), strict=True)), int(truth))
            for row, truth in zip(rows, self._truth[picks], strict=True)
        ]


def _power_of_length(feature: str) -> int:
    if "area" in feature:
        return 2
    return int("radius" in feature or "perimeter" in feature)


def train(
    version: str,
    features: Sequence[str],
    rows: Matrix,
    truth: Matrix,
    weights: Matrix | None = None,
    strength: float = 0.3,
) -> ModelFile:
    """Fits a standardised logistic regression; `strength` is scikit-learn's C."""
    estimator = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
    estimator.fit(rows, truth, logisticregression__sample_weight=weights)
    return ModelFile(version, tuple(features), estimator)


def first_releases(world: World) -> tuple[ModelFile, ModelFile, ModelFile]:
    """v1: two features. v2: all thirty. v3: all thirty, less regularised; as good as v2 until its server
    breaks.
    """
    rows, truth = world.training_rows, world.training_truth
    few = [world.features.index(name) for name in FEW_FEATURES]
    return (
        train("v1", FEW_FEATURES, rows[:, few], truth),
        train("v2", world.features, rows, truth),
        train("v3", world.features, rows, truth, strength=1.0),
    )


def accuracy(model: ModelFile, cases: Sequence[Case]) -> float:
    """The share of cases that the model gets right."""
    rows = np.array([[case.features[name] for name in model.features] for case in cases])
    truth = np.array([case.truth for case in cases])
    return float((model.estimator.predict_proba(rows).argmax(axis=1) == truth).mean())
