"""Incidents: what went wrong, why, with what evidence, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

OPEN, ENDED, RECOVERED = "open", "ended", "recovered"


@dataclass(frozen=True, slots=True)
class Incident:
    """One fault and all that is known of it, as a value that can be stored and compared.

    `data` has the shape that the API, the command line and the demo read; times are Unix nanoseconds.
    Besides what they show it holds ``subjects``: the links by which the next tick knows the fault again.
    """

    data: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Made of content alone: the same fault has the same id in every replay."""
        return str(self.data["id"])

    @property
    def session(self) -> str:
        """The session that it befell."""
        return str(self.data["session"])

    @property
    def status(self) -> str:
        """``open``, ``ended`` or ``recovered``."""
        return str(self.data["status"])

    @property
    def cause(self) -> str:
        """Id of the cause in the catalogue."""
        return str(self.data["cause"])

    @property
    def subjects(self) -> frozenset[str]:
        """Links by which it is known again."""
        return frozenset(self.data.get("subjects", ()))

    @property
    def blamed(self) -> list[dict[str, Any]]:
        """Blamed entities, the first before all."""
        return list(self.data["blamed"])

    @property
    def job(self) -> str:
        """The job that it befell, or empty."""
        return str(self.data.get("job", ""))

    def but(self, **changes: Any) -> Incident:
        """The same incident with other content."""
        return replace(self, data={**self.data, **changes})

    def same(self, other: Incident) -> bool:
        """Whether two versions say the same, whenever they were written."""
        return self.but(updated_ns=0).to_json() == other.but(updated_ns=0).to_json()

    def to_dict(self) -> dict[str, Any]:
        """A copy as plain values."""
        copy: dict[str, Any] = json.loads(self.to_json())
        return copy

    def to_json(self) -> str:
        """The canonical text: sorted keys, no spaces, the same bytes for the same incident."""
        return json.dumps(self.data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Incident:
        """An incident from what `to_dict` gave."""
        return cls(data)

    @classmethod
    def from_json(cls, text: str) -> Incident:
        """An incident from what `to_json` gave."""
        return cls(json.loads(text))


def incident_id(session: str, cause: str, entity: str, onset: int, subjects: Iterable[str]) -> str:
    """An id of content: 16 hex digits."""
    text = "\n".join((session, cause, entity, str(onset), *sorted(subjects)[:1]))
    return blake2b(text.encode(), digest_size=8).hexdigest()
