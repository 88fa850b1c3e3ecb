"""Prediction ids are the gateway's alone: what a client or a model server calls a prediction is not its id."""

from __future__ import annotations

from pathlib import Path

from app.domain.prediction import parse_id
from tests.client import load, post
from tests.faults.traffic import credit
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import running_gateway

CHOSEN = "01900000-0000-7000-8000-000000000000"


async def test_colliding_ids_of_clients_and_servers_collide_nowhere(tmp_path: Path) -> None:
    with (
        MisbehavingUpstream(default="hop_by_hop") as v1,  # answers with an X-Prediction-Id of its own
        running_gateway(tmp_path, credit(v1), port=free_port()) as gateway,
    ):
        requests = [
            post("/models/credit/predict", X_Prediction_Id=CHOSEN, X_Request_Id="the same")
            for _ in range(300)
        ]
        answers = await load(gateway.port, requests)
        ids = [answer.headers["x-prediction-id"] for answer in answers]
        assert len(set(ids)) == 300
        assert CHOSEN not in ids
        assert all(parse_id(name) for name in ids)
        assert {r.header("x-prediction-id") for r in v1.requests} == set(ids)
        accounts = gateway.settled()
        assert accounts["stored"] == 300
        assert accounts["quarantined"] == 0
        assert gateway.admin("GET", f"/predictions/{CHOSEN}").status_code == 404
        assert gateway.get(f"/predictions/{ids[0]}")["prediction_id"] == ids[0]
        # An outcome for an id that a client made up joins nothing, now or later.
        made_up = {"prediction_id": CHOSEN, "ground_truth": 1}
        assert gateway.admin("POST", "/feedback", made_up).status_code in (202, 422)
        assert gateway.admin("GET", f"/predictions/{CHOSEN}").status_code == 404
