"""Diagnosis: from what is stored of a session to the incidents that explain it.

A tick is a pure function: `diagnose(view, session, at, previous)`. Detectors state observations; those
that belong together make a case; the causes of the catalogue compete to explain each case; what wins
and is no consequence of something else becomes an incident.
"""

from misstep.diagnosis.diagnose import diagnose
from misstep.diagnosis.incident import Incident
from misstep.diagnosis.patience import awaited
from misstep.diagnosis.recall import Recall

__all__ = ["Incident", "Recall", "awaited", "diagnose"]
