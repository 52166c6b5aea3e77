"""What a rank tells of its steps, and what only looks like it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from misstep.agent.records import Records
from misstep.agent.series import Sheet
from misstep.agent.torch import progress
from misstep.agent.torch.progress import NOTHING, Points, Told
from misstep.agent.torch.rank import Rank
from misstep.core import names

TRACE = b'{"pg_status":{"0":{"last_enqueued_collective":"3"}},"version":"2.10"}'
STEP = b'{"workload":{"step": 12, "phase": "data", "for_s": 3.5, "tokens": 768, "loss": 0.25, "spent": {"forward": 1.5}}}'


def test_it_is_parted_from_the_rest() -> None:
    rest, told = progress.part(b"[" + TRACE + b"," + STEP + b"]")
    assert rest == b"[" + TRACE + b"]"
    assert told == Told(12, "data", 3.5, 768, 0.25, {"forward": 1.5})
    assert told.attributes() == {names.STEP: 12, names.PHASE: "data", names.PHASE_SECONDS: 3.5}


def test_without_a_recorder_it_is_all_there_is() -> None:
    assert progress.part(b"[" + STEP + b"]")[0] == b"[]"


def test_a_script_that_tells_of_steps_still_stands_still() -> None:
    """Whether a rank moves is told by its collectives: a loop that waits may go on counting."""
    rank = Rank(1, 1)
    assert rank.see(progress.part(b"[" + TRACE + b"," + STEP + b"]")[0], {}, 1.0)
    assert not rank.see(progress.part(b"[" + TRACE + b"," + STEP.replace(b"12", b"13") + b"]")[0], {}, 2.0)


_JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["step", "phase", "for_s", "tokens", "loss", "spent"]), _JSON))
def test_whatever_comes_is_told_in_bounds_or_not_at_all(held: dict[str, Any]) -> None:
    import json

    text = json.dumps({"workload": {"step": 1, "phase": "", "for_s": 0, "tokens": 0, "spent": {}} | held})
    rest, told = progress.part(b"[" + TRACE + b"," + text.encode() + b"]")
    assert rest == b"[" + TRACE + b"]" or b'{"workload":' in text.encode()[1:]
    assert len(told.phase) <= 40 and len(told.spent) <= 33
    out = Records(1)
    Points({names.RANK: 0}).add(told, out)
    out.metrics(Sheet())


@pytest.mark.parametrize(
    "text", [b"", b"[", b"[]", b'[{"workload":', b'[{"workload":{}}]', b'[{"workload":7}]']
)
def test_what_is_not_it_says_nothing(text: bytes) -> None:
    assert progress.part(text)[1] == NOTHING
