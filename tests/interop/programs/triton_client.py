"""What a user of Triton's HTTP client does: `triton_client.py HOST:PORT[/PREFIX] MODEL json|binary…`; prints the answers."""

from __future__ import annotations

import json
import sys

import numpy as np
import tritonclient.http as triton

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 3.0, 4.2, 1.5]])


def ask(client: triton.InferenceServerClient, model: str, *, binary: bool) -> dict[str, object]:
    tensor = triton.InferInput("predict", list(ROWS.shape), "FP64")
    tensor.set_data_from_numpy(ROWS, binary_data=binary)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("predict", "predict_proba")]
    headers = {"X-User-Id": "7"}
    if not binary:
        headers["Content-Type"] = "application/json"  # KServe wants it; Triton and MLServer do not need it
    sent = client.infer(model, [tensor], outputs=outputs, headers=headers, request_id=f"binary-{binary}")
    return {
        "id": sent.get_response()["id"],
        "predict": sent.as_numpy("predict").ravel().tolist(),
        "predict_proba": sent.as_numpy("predict_proba").tolist(),
    }


def main(url: str, model: str, *forms: str) -> None:
    client = triton.InferenceServerClient(url)
    said: dict[str, object] = {
        "live": client.is_server_live(),
        "ready": client.is_model_ready(model),
        "name": client.get_model_metadata(model)["name"],
    }
    for form in forms:
        said[form] = ask(client, model, binary=form == "binary")
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
