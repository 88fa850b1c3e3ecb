"""Models for other projects' servers, made in their environment: `train.py mlserver|mlflow DIRECTORY`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


def mlserver(directory: Path) -> None:
    """A directory that `mlserver start` takes."""
    features, classes = load_iris(return_X_y=True)
    joblib.dump(LogisticRegression(max_iter=1000).fit(features, classes), directory / "model.joblib")
    settings = {
        "name": "iris",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib", "version": "1"},
    }
    (directory / "model-settings.json").write_text(json.dumps(settings))


def mlflow(directory: Path) -> None:
    """A directory that `mlflow models serve` takes."""
    import mlflow.sklearn

    frame, classes = load_iris(return_X_y=True, as_frame=True)
    model = LogisticRegression(max_iter=1000).fit(frame, classes)
    # Told what it needs, MLflow does not load the model in another process to find out.
    needs = ["scikit-learn"]
    mlflow.sklearn.save_model(model, directory, serialization_format="cloudpickle", pip_requirements=needs)


if __name__ == "__main__":
    {"mlserver": mlserver, "mlflow": mlflow}[sys.argv[1]](Path(sys.argv[2]))
