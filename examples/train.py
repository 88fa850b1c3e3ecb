"""`python -m examples.train DIRECTORY`: trains the demo's models on data that ship with scikit-learn and
writes v1, v2, v3.joblib.

v1 uses two features, v2 and v3 all thirty. A file request.json with one case is written beside them, to try
by hand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from app.demo.releases import World, accuracy, first_releases

SEED = 7


def main() -> None:
    """Trains, writes, and says how often each model is right on cases it has not seen."""
    parser = argparse.ArgumentParser(description="Train example models.")
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    world = World(SEED)
    holdout = world.cases(1000)
    for model in first_releases(world):
        model.save(directory / f"{model.version}.joblib")
        right = accuracy(model, holdout)
        print(f"{directory / model.version}.joblib: {len(model.features)} features, {right:.1%} right")
    (directory / "request.json").write_text(json.dumps({"features": holdout[0].features}))


if __name__ == "__main__":
    main()
