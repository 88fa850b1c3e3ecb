"""A real KServe model server around a scikit-learn model, V1 and V2, on the loopback interface: `kserve_server.py PORT`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import uvicorn
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


class Loopback(uvicorn.Config):
    """KServe listens on all interfaces and has no setting for it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **{**named, "host": "127.0.0.1"})


class Iris(Model):
    def __init__(self) -> None:
        super().__init__("iris")
        self.model = LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True))
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        if not isinstance(payload, InferRequest):  # V1
            return {"predictions": self.model.predict(payload["instances"]).tolist()}
        rows = payload.inputs[0].as_numpy()
        outputs = []
        for name, datatype, data in (
            ("predict", "INT64", self.model.predict(rows)),
            ("predict_proba", "FP64", self.model.predict_proba(rows)),
        ):
            output = InferOutput(name, list(data.shape), datatype)
            output.set_data_from_numpy(np.ascontiguousarray(data), binary_data=_binary(payload))
            outputs.append(output)
        return InferResponse(payload.id, self.name, outputs)


def _binary(payload: InferRequest) -> bool:
    """As the client asked for its outputs."""
    asked = [output.parameters or {} for output in payload.request_outputs or []]
    return bool(asked) and all(parameters.get("binary_data") for parameters in asked)


if __name__ == "__main__":
    port = sys.argv[1]
    uvicorn.Config = Loopback
    ModelServer(http_port=int(port), enable_grpc=False, enable_latency_logging=False).start([Iris()])
