"""GPUs that fail under a job: which cause, which GPU, whose; and what must stay quiet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from misstep.diagnosis import Incident
from misstep.store.rows import LogRow

SECOND = 1_000_000_000
T = 1_790_000_000 * SECOND
HOST = "3d1219c7c4c5"
RESOURCE = {"host.name": "n1", "host.id": HOST + "0" * 20}
SESSION = "local/torch/train.py/2026-11-21_10-00-00_29500"
COMMAND = "local/command/train.py/2026-11-21_10-00-00_900"
Diagnose = Callable[..., list[Incident]]


class Story:
    """Rows of a machine with eight GPUs and a job of four ranks, one GPU each, in the order of their arrival."""

    def __init__(self, session: str = SESSION) -> None:
        self.session = session
        self._rows: list[LogRow] = []
        self.add(0, "session.start", f"session/{session}", session=session, pid=900, body="python train.py")
        for state in ("gpu", "kernel_log", "processes", "process_exits"):
            self.add(0, "source.state", f"host/{RESOURCE['host.id']}", "ok", more={"misstep.source": state})
        for gpu in range(8):
            self.add(
                0, "hw.gpu.found", self.gpu(gpu), body="NVIDIA H100 80GB HBM3",
                more={"hw.id": self.pci(gpu), "hw.gpu.index": gpu, "hw.gpu.uuid": f"GPU-{gpu}", "hw.model": "NVIDIA H100 80GB HBM3"},
            )  # fmt: skip
        for rank in range(4):
            pid, entity = 1000 + rank, f"process/{HOST}/{1000 + rank}/77"
            self.add(1, "process.start", entity, session=session, pid=pid, more={"torch.rank": rank})
            if "/torch/" in session:
                self.add(1, "torch.rank", f"rank/{session}/{rank}", session=session, pid=pid, more={"torch.rank": rank, "torch.world_size": 4, "misstep.process": entity})  # fmt: skip
            self.add(
                5, "hw.gpu.process", entity, "held", session=session, pid=pid,
                more={"misstep.gpu": self.gpu(rank), "hw.id": self.pci(rank), "torch.rank": rank, "process.title": "python"},
            )  # fmt: skip

    @property
    def rows(self) -> list[LogRow]:
        """In the order of their arrival."""
        return [
            row._replace(seq=n) for n, row in enumerate(sorted(self._rows, key=lambda row: row.received), 1)
        ]

    @staticmethod
    def pci(gpu: int) -> str:
        return f"0000:{0x18 + 0x10 * gpu:02x}:00"

    def gpu(self, gpu: int) -> str:
        return f"gpu/{HOST}/{self.pci(gpu)}"

    def add(
        self, at: float, event: str, entity: str, state: str = "", *, session: str = "", pid: int = 0, body: str = "", more: dict[str, Any] | None = None
    ) -> None:  # fmt: skip
        ts = T + round(at * SECOND)
        attributes = {key: str(value) for key, value in (more or {}).items()}
        if pid:
            attributes["process.pid"] = str(pid)
        self._rows.append(
            LogRow(
                seq=0, row=0, received=ts + SECOND // 4, ts=ts, severity=9, event=event, entity=entity,
                session=session, state=state, body=body, attributes=attributes, resource=RESOURCE,
            )
        )  # fmt: skip

    def xid(self, at: float, gpu: int, code: int, text: str = "", *, rank: int | None = None) -> None:
        """As the kernel log tells it; with a rank it names that rank's process."""
        session, pid = (self.session, 1000 + rank) if rank is not None else ("", 0)
        self.add(
            at, "hw.gpu.xid", self.gpu(gpu), session=session, pid=pid, body=f"NVRM: Xid (PCI:{self.pci(gpu)}): {code}, {text}",
            more={"hw.gpu.xid": code, "hw.id": self.pci(gpu), "kernel.log.sequence": len(self._rows)},
        )  # fmt: skip

    def dies(self, at: float, rank: int, how: str = "SIGABRT") -> None:
        self.add(
            at, "process.exit", f"process/{HOST}/{1000 + rank}/77", "killed", session=self.session, pid=1000 + rank, more={"process.exit.signal": how},
        )  # fmt: skip

    def says(
        self, at: float, gpu: int, event: str, state: str, body: str = "", more: dict[str, Any] | None = None
    ) -> None:
        """As NVML tells it."""
        self.add(
            at,
            event,
            self.gpu(gpu),
            state,
            body=body,
            more={"hw.id": self.pci(gpu), "hw.gpu.index": gpu, **(more or {})},
        )


def verdicts(found: list[Incident]) -> list[tuple[str, str, str]]:
    return [
        (one.cause, one.blamed[0]["kind"], one.blamed[0]["name"])
        for one in found
        if one.status != "recovered"
    ]


def test_a_lost_gpu_is_the_cause_and_the_death_of_its_rank_the_consequence(replayed: Diagnose) -> None:
    story = Story()
    story.xid(20.0, 2, 79, "pid=1002, name=python, GPU has fallen off the bus.", rank=2)
    story.says(20.6, 2, "hw.gpu.state", "lost")
    story.dies(21.2, 2)
    story.dies(21.5, 0, "SIGTERM")
    (incident,) = replayed(story.rows, SESSION)
    assert verdicts([incident]) == [("gpu-lost", "gpu", "2")]
    blamed = incident.blamed
    assert blamed[0]["attributes"] == {
        "index": "2", "uuid": "GPU-2", "pci": "0000:38:00", "model": "NVIDIA H100 80GB HBM3", "host": "n1", "xid": 79,
    }  # fmt: skip
    assert [(one["kind"], one["name"]) for one in blamed[1:]] == [("rank", "2"), ("process", "pid 1002")]
    assert incident.data["layer"] == "hardware"
    assert "fell off the bus (Xid 79)" in incident.data["sentence"]
    assert "Rank 2 (pid 1002) held it since" in incident.data["sentence"]
    roles = {step["statement"]: step["role"] for step in incident.data["chain"]}
    assert roles["reports Xid 79: it has fallen off the bus"] == "cause"
    assert roles["killed by SIGABRT"] == "consequence"
    assert incident.data["onset_ns"] == T + 20 * SECOND


def test_it_is_told_within_two_seconds_while_the_ranks_still_live(replayed: Diagnose) -> None:
    story = Story()
    story.says(20.6, 2, "hw.gpu.state", "lost")
    found = replayed(story.rows, SESSION, extra=2)
    assert verdicts(found) == [("gpu-lost", "gpu", "2")]
    assert found[0].data["opened_ns"] <= T + 22 * SECOND


def test_nvml_alone_is_enough_and_so_is_the_kernel_alone(replayed: Diagnose) -> None:
    by_kernel, by_nvml = Story(), Story()
    by_kernel.xid(20.0, 1, 79)
    by_nvml.says(20.0, 1, "hw.gpu.event", "unavailable")
    assert (
        verdicts(replayed(by_kernel.rows, SESSION))
        == verdicts(replayed(by_nvml.rows, SESSION))
        == [("gpu-lost", "gpu", "1")]
    )


@pytest.mark.parametrize(
    ("code", "text", "cause"),
    [
        (48, "pid=1001, name=python, DBE", "gpu-memory-error"), (95, "Uncontained", "gpu-memory-error"),
        (74, "NVLink: fatal error detected on link 3", "nvlink-error"), (149, "NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x4 0x0)", "nvlink-error"),
        (119, "Timeout after 6s of waiting for RPC response from GPU1 GSP!", "gpu-stopped"), (62, "", "gpu-stopped"),
    ],
)  # fmt: skip
def test_each_xid_has_its_cause(replayed: Diagnose, code: int, text: str, cause: str) -> None:
    story = Story()
    story.xid(20, 1, code, text)
    story.dies(21, 1)
    assert verdicts(replayed(story.rows, SESSION)) == [(cause, "gpu", "1")]


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("ecc_uncorrected", "gpu-memory-error"),
        ("remap_failed", "gpu-memory-error"),
        ("nvlink_down", "nvlink-error"),
    ],
)
def test_counters_of_nvml_have_their_causes(replayed: Diagnose, state: str, cause: str) -> None:
    story = Story()
    story.says(20, 3, "hw.gpu.event", state, more={"hw.gpu.nvlink": 4})
    assert verdicts(replayed(story.rows, SESSION)) == [(cause, "gpu", "3")]


def test_a_clean_up_after_an_ecc_error_is_no_cause(replayed: Diagnose) -> None:
    story = Story()
    story.xid(20.0, 0, 48, "DBE")
    story.xid(20.1, 0, 45, "caused by previous Xid 48", rank=0)
    story.dies(20.4, 0)
    (incident,) = replayed(story.rows, SESSION)
    assert verdicts([incident]) == [("gpu-memory-error", "gpu", "0")]
    assert incident.blamed[0]["attributes"]["xid"] == 48


def test_the_gpu_that_went_is_blamed_and_not_the_links_of_its_peers(replayed: Diagnose) -> None:
    story = Story()
    story.xid(19.9, 0, 74, "NVLink: fatal error")
    story.xid(20.0, 2, 79)
    story.xid(20.2, 1, 74, "NVLink: fatal error")
    story.xid(26.0, 2, 119, "Timeout")
    story.dies(21, 2)
    assert verdicts(replayed(story.rows, SESSION)) == [("gpu-lost", "gpu", "2")]


def test_the_first_end_of_a_broken_link_is_blamed(replayed: Diagnose) -> None:
    story = Story()
    story.xid(20.0, 1, 74, "NVLink: fatal error")
    story.xid(20.4, 3, 74, "NVLink: fatal error")
    (incident,) = replayed(story.rows, SESSION)
    assert verdicts([incident]) == [("nvlink-error", "gpu", "1")]
    assert "GPU 3 reported it later" in incident.data["sentence"]


def test_a_driver_that_hangs_without_any_xid(replayed: Diagnose) -> None:
    story = Story()
    story.says(20, 2, "hw.gpu.state", "unresponsive", "nvmlDeviceGetPowerUsage has not returned for 6 s")
    (incident,) = replayed(story.rows, SESSION)
    assert verdicts([incident]) == [("gpu-stopped", "gpu", "2")]
    assert "nvmlDeviceGetPowerUsage has not returned" in incident.data["sentence"]
    story.says(50, 2, "hw.gpu.state", "ok")
    assert verdicts(replayed(story.rows, SESSION)) == []


def test_heat_that_slows_a_gpu_is_a_warning_and_over_when_it_cools(replayed: Diagnose) -> None:
    story = Story()
    story.says(20, 1, "hw.gpu.event", "throttled", more={"hw.gpu.throttle.reason": "hardware_thermal"})
    (incident,) = replayed(story.rows, SESSION)
    assert (verdicts([incident]), incident.data["severity"]) == (
        [("gpu-throttled", "gpu", "1")],
        "warning",
    )
    story.says(40, 1, "hw.gpu.event", "throttle_end", more={"hw.gpu.throttle.reason": "hardware_thermal"})
    assert verdicts(replayed(story.rows, SESSION)) == []


def test_a_command_that_fails_because_its_gpu_was_lost(replayed: Diagnose) -> None:
    story = Story(COMMAND)
    story.xid(20.0, 2, 79)
    story.dies(20.5, 2)
    story.add(
        21, "process.exception", f"process/{HOST}/900/70", session=COMMAND, pid=900,
        body='Traceback (most recent call last):\n  File "/home/ada/train.py", line 9, in <module>\n    main()\nRuntimeError: rank 2 died',
        more={"exception.type": "RuntimeError"},
    )  # fmt: skip
    story.add(
        21.2,
        "command.exit",
        f"process/{HOST}/900/70",
        "exited",
        session=COMMAND,
        pid=900,
        more={"process.exit.code": 1},
    )
    (incident,) = replayed(story.rows, COMMAND)
    assert verdicts([incident]) == [("gpu-lost", "gpu", "2")]
    assert incident.status == "ended"
    assert "the job failed" in incident.data["impact"]["summary"]


@pytest.mark.parametrize("name", ["crash_task", "crash_actor"])
def test_a_worker_of_ray_that_died_with_its_gpu(captured: Any, name: str) -> None:
    """A recorded crash: with a lost GPU under it, the GPU is the cause, and the task or actor its victim."""
    replay = captured(name)
    (crash,) = replay.run()
    assert crash.cause == "native-crash"
    died = next(
        r
        for r in replay.rows
        if r.event == "process.exit" and r.attributes.get("process.exit.signal") == "SIGSEGV"
    )
    gpu, at = "gpu/3d1219c7c4c5/0000:38:00", died.ts - SECOND
    about = {"hw.id": "0000:38:00", "hw.gpu.index": "2", "hw.gpu.uuid": "GPU-2", "hw.model": "H100"}
    added = [
        died._replace(event="hw.gpu.found", entity=gpu, session="", state="", attributes=about, ts=at - 5 * SECOND),
        died._replace(
            event="hw.gpu.process", state="held", ts=at - 4 * SECOND,
            attributes={**about, "misstep.gpu": gpu, "process.pid": died.attributes["process.pid"]},
        ),
        died._replace(event="hw.gpu.state", entity=gpu, session="", state="lost", attributes=about, ts=at),
    ]  # fmt: skip
    replay.rows = [
        row._replace(seq=n, row=0)
        for n, row in enumerate(
            sorted([*added, *replay.rows], key=lambda row: (row.received, row.seq, row.row)), 1
        )
    ]
    (incident,) = replay.run()
    assert verdicts([incident]) == [("gpu-lost", "gpu", "2")]
    assert {(one["kind"], one["name"]) for one in incident.blamed[1:]} >= {
        (crash.blamed[0]["kind"], crash.blamed[0]["name"])
    }
    assert crash.blamed[0]["name"] in incident.data["title"]


def test_an_exception_in_a_worker_whose_gpu_was_lost(captured: Any) -> None:
    replay = captured("actor_method")
    (raised,) = replay.run()
    pid = next(str(one["attributes"]["pid"]) for one in raised.blamed if one["attributes"].get("pid"))
    any_row = next(row for row in replay.rows if row.session)
    at, gpu = raised.data["onset_ns"] - SECOND, "gpu/3d1219c7c4c5/0000:38:00"
    about = {"hw.id": "0000:38:00", "hw.gpu.index": "2"}
    added = [
        any_row._replace(
            event="hw.gpu.process", entity=f"process/{HOST}/{pid}/1", state="held", ts=at - SECOND, body="",
            attributes={**about, "misstep.gpu": gpu, "process.pid": pid},
        ),
        any_row._replace(event="hw.gpu.state", entity=gpu, session="", state="lost", ts=at, body="", attributes=about),
    ]  # fmt: skip
    replay.rows = [row._replace(seq=n, row=0) for n, row in enumerate([*added, *replay.rows], 1)]
    assert verdicts(replay.run()) == [("gpu-lost", "gpu", "0000:38:00")]


# -- what must stay quiet, or name somebody else ---------------------------------------------------------
@pytest.mark.parametrize("code", [13, 31, 43, 45, 63, 92, 154, 999])
def test_xids_that_blame_no_hardware(replayed: Diagnose, code: int) -> None:
    story = Story()
    story.xid(20, 1, code, "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)", rank=1)
    assert verdicts(replayed(story.rows, SESSION)) == []


def test_a_program_that_crashes_on_its_gpu_is_not_the_gpu_s_fault(replayed: Diagnose) -> None:
    story = Story()
    story.xid(20, 1, 31, "pid=1001, name=python, MMU fault", rank=1)
    story.dies(20.3, 1)
    (incident,) = replayed(story.rows, SESSION)
    assert incident.cause == "native-crash"
    assert incident.blamed[0]["kind"] == "rank"


def test_a_gpu_that_nobody_of_the_job_held_is_not_its_concern(replayed: Diagnose) -> None:
    story = Story()
    story.xid(20, 6, 79)
    story.says(20.4, 6, "hw.gpu.state", "lost")
    assert verdicts(replayed(story.rows, SESSION)) == []


def test_a_gpu_that_goes_long_after_the_death_of_its_rank_did_not_kill_it(replayed: Diagnose) -> None:
    story = Story()
    story.dies(20, 1, "SIGSEGV")
    story.xid(28, 1, 79)
    assert [one.cause for one in replayed(story.rows, SESSION)] == ["native-crash"]


def test_a_gpu_that_was_given_back_before_it_failed_is_not_its_concern(replayed: Diagnose) -> None:
    story = Story()
    story.add(
        10, "hw.gpu.process", f"process/{HOST}/1001/77", "released", session=SESSION, pid=1001, more={"misstep.gpu": story.gpu(1)}
    )  # fmt: skip
    story.xid(60, 1, 79)
    assert verdicts(replayed(story.rows, SESSION)) == []


def test_errors_that_were_corrected_and_links_that_count_are_quiet(replayed: Diagnose) -> None:
    story = Story()
    for at, state in enumerate(
        ("ecc_storm", "retirement", "remap_pending", "nvlink_errors", "nvlink_up", "mig", "recovery_action")
    ):
        story.says(20 + at, 1, "hw.gpu.event", state)
    story.says(40, 1, "hw.gpu.state", "ok")
    assert verdicts(replayed(story.rows, SESSION)) == []


def test_the_same_rows_in_another_order_give_the_same_bytes(replayed: Diagnose) -> None:
    story = Story()
    story.xid(20.0, 2, 79, rank=2)
    story.says(20.0, 2, "hw.gpu.state", "lost")
    story.dies(20.9, 2)
    turned = Story()
    turned.says(20.0, 2, "hw.gpu.state", "lost")
    turned.xid(20.0, 2, 79, rank=2)
    turned.dies(20.9, 2)
    (one,), (other,) = replayed(story.rows, SESSION), replayed(turned.rows, SESSION)
    assert (one.id, one.data["title"], one.blamed) == (other.id, other.data["title"], other.blamed)
    assert [s["statement"] for s in one.data["chain"]] == [s["statement"] for s in other.data["chain"]]


def test_what_a_user_without_privileges_could_not_read_stands_in_the_verdict(replayed: Diagnose) -> None:
    """A source that is shut, and one that was read in part; one that has nothing to read here is not mentioned."""
    story = Story()
    host = f"host/{RESOURCE['host.id']}"
    shut = "this user may not read /dev/kmsg"
    for source, state, reason, remedy in (
        ("kernel_log", "unsupported", shut, "sudo misstep agent"),
        (
            "processes",
            "ok",
            "environment of 4 workload processes belongs to other users",
            "sudo misstep agent",
        ),
        ("host", "ok", "", ""),
        ("training_logs", "off", "no training job runs on this machine", ""),
        ("nccl_ras", "off", "no rank uses NCCL 2.28.7 or newer", ""),
    ):
        told = {"misstep.source": source, "misstep.source.reason": reason, "misstep.source.remedy": remedy}
        story.add(2, "source.state", host, state, more=told)
    story.add(60, "hw.gpu.state", story.gpu(1), "lost", more={"hw.id": story.pci(1)})
    (incident,) = replayed(story.rows, SESSION)
    unseen = {gap["source"]: (gap["reason"], gap["remedy"]) for gap in incident.to_dict()["unseen"]}
    assert unseen["kernel_log"] == (shut, "sudo misstep agent")
    assert unseen["processes"][0].startswith("environment of 4")
    assert not unseen.keys() & {"host", "training_logs", "nccl_ras"}


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"k8s.namespace.name": "ml", "k8s.pod.name": "train-1", "k8s.pod.uid": "u1"}, "pid 1001, pod ml/train-1)"),
        ({"k8s.pod.uid": "5f1c9a00-1111-2222-3333-444455556666"}, "pid 1001, pod 5f1c9a00-1111-2222-3333-444455556666)"),
        ({}, "pid 1001) held"),
    ],
)  # fmt: skip
def test_the_pod_of_a_holder_is_named(replayed: Diagnose, known: dict[str, str], said: str) -> None:
    story = Story()
    more = {
        "misstep.gpu": story.gpu(1),
        "hw.id": story.pci(1),
        "torch.rank": 1,
        "process.title": "python",
        **known,
    }
    story.add(6, "hw.gpu.process", f"process/{HOST}/1001/77", "held", session=SESSION, pid=1001, more=more)
    story.add(60, "hw.gpu.state", story.gpu(1), "lost", more={"hw.id": story.pci(1)})
    (incident,) = replayed(story.rows, SESSION)
    assert said in str(incident.to_dict())
