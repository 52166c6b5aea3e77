"""A real process is killed with SIGKILL while it acknowledges; whatever it acknowledged is in the journal."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from misstep.store.journal import Journal

WRITER = """
import sys
from pathlib import Path
from misstep.store.journal import Journal
from misstep.store.segment import HighWater, Row

journal = Journal(Path(sys.argv[1]), position=0, received=0, marks={})
while True:
    seq = journal.next_seq
    rows = [Row(seq + i, seq + i, "logs", "a", "b", seq + i, "", b"", b"%d;" % (seq + i) * 300) for i in range(3)]
    journal.append(rows, {("a", "b"): HighWater(seq + 2, seq + 2)})
    if seq % 7 == 0:
        journal.rotate()
    print(seq + 2, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    acknowledged = 0
    for round_ in range(20):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(random.Random(round_).uniform(0, 0.04))
        writer.send_signal(signal.SIGKILL)
        told = writer.stdout.read().split()
        writer.wait()
        writer.stdout.close()
        acknowledged = max(acknowledged + 1, int(told[-1]) if told else 0)
        journal = Journal(folder, position=0, received=0, marks={})
        rows = list(journal.pending(0))
        journal.close()
        assert [row.seq for row in rows] == list(range(1, len(rows) + 1)), "each once, in order"
        assert all(row.payload == b"%d;" % row.seq * 300 for row in rows)
        assert len(rows) >= acknowledged
        assert journal.marks[("a", "b")].agent_seq == rows[-1].seq
        assert not journal.counts["journal_damaged_segments"]
        acknowledged = len(rows)
