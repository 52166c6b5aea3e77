"""What `misstep doctor` looks at: each check says how things stand and what opens more.

A check reads and reports; it changes nothing, needs no collector, and never raises for what it finds.
"""

from __future__ import annotations

from typing import NamedTuple

OK, LIMITED, BROKEN = "ok", "limited", "broken"


class Check(NamedTuple):
    """One finding.

    Attributes:
        name: what was looked at, as it stands in the table.
        state: `OK`; `LIMITED`: Misstep works and sees less, or could be better; `BROKEN`: it cannot work.
        detail: what was found and what it means for a verdict.
        remedy: the command that opens the rest; empty where there is nothing to do.
    """

    name: str
    state: str
    detail: str
    remedy: str = ""
