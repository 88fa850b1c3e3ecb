"""Whatever bytes are found by their coverage: readers and redaction answer with values or a reason. libFuzzer, through atheris."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.environment import python

ROOT = Path(__file__).parents[2]
SECONDS = 45
# A request and its answer in each protocol; the zeros choose a reader.
SEEDS = (
    (b'{"features": {"x": 1.5, "name": "a"}}', b'{"prediction": 1, "confidence": 0.5}'),
    (b'{"instances": [{"x": 1}, [1, 2]]}', b'{"predictions": [[0.1, 0.9]]}'),
    (
        b'{"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [1, 2]}]}',
        b'{"outputs": [{"name": "y", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}]}',
    ),
    (b'{"dataframe_split": {"columns": ["x", "a"], "data": [[1, "b"]]}}', b'{"predictions": [{"label": 1}]}'),
    (b"x,a\n1,b\n", b'{"predictions": [0]}'),
    (
        b'{"messages": [{"role": "user", "content": "hi"}], "stream": true}',
        b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n',
    ),
)


@pytest.mark.interop
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="atheris has no wheel for this Python")
def test_bytes_that_reach_new_code_are_read_or_refused_and_never_fail(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, (asked, said) in enumerate(SEEDS):
        for choice in range(0, 24, 2):
            (corpus / f"{number}-{choice}").write_bytes(
                asked + b"\xff" + said + bytes([0, 0, 0, 1, 0, 0, choice])
            )
    places = [str(ROOT), sysconfig.get_path("purelib")]
    done = subprocess.run(
        [
            str(python("fuzz")), "-P", "-m", "tests.fuzz.bodies", str(corpus),
            f"-max_total_time={SECONDS}", "-seed=1", "-max_len=2048", f"-artifact_prefix={tmp_path}/",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS + 120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"Done (\d+) runs", done.stderr)
    assert found is not None
    assert int(found[1]) > 1000
    covered = re.findall(r"cov: (\d+) ft: (\d+)", done.stderr)[-1]
    record_property("figure", f"{found[1]} inputs, {covered[0]} places reached")
    sys.stderr.write(f"{found[1]} inputs, {covered[0]} places reached\n")
