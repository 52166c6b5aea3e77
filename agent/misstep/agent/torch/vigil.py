"""When a training job is to be read next: at once where it stands still, rarely while it gets on, more often where ranks differ."""

from __future__ import annotations

from collections import deque

SOONEST = 5.0
"""Seconds between two readings of a job whose ranks differ."""
EARLY, LATEST = 10.0, 60.0
"""The same, at least and at most, of one that merely gets on."""
_SHARE = 400
"""Torch's server formats its whole ring for each reading, in the rank: 1 part in so many of the rank's time is ours."""
_AGAIN = (0.0, 2.5, 6.0, 12.0, 24.0)
"""Seconds after a job was first seen to stand still at which it is read; afterwards once a minute."""
_LATER = 60.0
_ROUNDS, _OFTEN = 10, 3
_SPARE, _EARN = 4.0, 15.0
"""So many readings may come sooner where ranks are seen to differ; one more is earned in so many seconds."""
_SURE = 2
_AFTER = 10.0
"""Seconds after which a job is read once more when its ranks differ no more."""
_LOOKS, _APART, _RENEWED = 3, 1.5, 30.0


class Vigil:
    """Over one job; times are monotonic seconds.

    Attributes:
        late: ranks that were seldom found in a collective in which others often were, in the last rounds.
    """

    def __init__(self, now: float) -> None:
        self.late: frozenset[int] = frozenset()
        self._pause = EARLY
        self._read, self._steps = now, -1
        self._since, self._times = 0.0, 0
        self._rounds: deque[frozenset[int]] = deque(maxlen=_ROUNDS)
        self._same, self._spare = 0, _SPARE
        self._round, self._sure = now, float("-inf")
        self._looks, self._looked = _LOOKS, now

    def saw(self, ranks: frozenset[int], waiting: frozenset[int], now: float) -> None:
        """One round of statuses: which ranks were in a collective that had not ended."""
        self._rounds.append(waiting)
        counts = {rank: sum(rank in one for one in self._rounds) for rank in ranks}
        often = max(counts.values(), default=0)
        late = frozenset(rank for rank, count in counts.items() if 3 * count <= often)
        late = late if often >= _OFTEN and 0 < 2 * len(late) <= len(ranks) else frozenset()
        self._same = self._same + 1 if late & self.late else 0
        self.late = late
        if self._same >= _SURE:
            self._sure = now
        self._spare = min(_SPARE, self._spare + (now - self._round) / _EARN)
        self._round = now
        if now - self._looked >= _RENEWED:
            self._looks = _LOOKS

    def took(self, seconds: float) -> None:
        """What reading one rank took: the longer, the rarer."""
        self._pause = min(LATEST, max(EARLY, _SHARE * seconds))

    def due(self, *, stands: bool, steps: int, now: float) -> str:
        """``stopped``, ``moving`` or empty; `steps` counts whatever moved in the job."""
        if stands:
            return self._again(now)
        resumed, self._since, self._times = self._since > 0, 0.0, 0
        if not resumed and (now - self._read < self._wait(now) or steps == self._steps):
            return ""
        if now - self._read < self._pause:
            self._spare = max(0.0, self._spare - 1)
        self._read, self._steps = now, steps
        return "moving"

    def _wait(self, now: float) -> float:
        """Seconds from the last reading to the next."""
        parted = self._read < self._sure + _AFTER <= now
        return SOONEST if self._spare >= 1 and (self._same >= _SURE or parted) else self._pause

    def catches(self, waiting: frozenset[int], now: float) -> bool:
        """Whether the late ones keep others waiting at this moment, and their stacks are worth a look."""
        if self._since or not self._looks or now - self._looked < _APART:
            return False
        if not self.late or self.late & waiting or not waiting:
            return False
        self._looks, self._looked = self._looks - 1, now
        return True

    def _again(self, now: float) -> str:
        self._since = self._since or now
        later = _AGAIN[-1] + _LATER * (self._times - len(_AGAIN) + 1)
        if now - self._since < (_AGAIN[self._times] if self._times < len(_AGAIN) else later):
            return ""
        self._times += 1
        return "stopped"
