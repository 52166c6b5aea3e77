"""Every metric, event and attribute that travels: its name, type, unit and meaning.

OpenTelemetry semantic conventions where they exist, ours where they do not. Code, docs and dashboards
take names from here, and tests hold them to it. Ray's own Prometheus families keep the names that Ray
gives them (``ray_*``) and are not listed.
"""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A series' name. `kind` is ``gauge`` or ``sum`` (cumulative, monotonic); `unit` is UCUM."""

    name: str
    kind: str
    unit: str
    meaning: str
    attributes: tuple[str, ...] = ()


class Event(NamedTuple):
    """A log record with an ``event_name``.

    Attributes:
        subject: kind of the entity in attribute ``misstep.entity``; empty where there is none.
        states: what attribute ``misstep.state`` can say.
        body: what the record's body holds.
        relates: ``(from attribute, relation, to attribute)``: both attributes hold ``kind/id``, and the
            store derives an interval of that relation which begins with the event.
        ends: states in which the subject ceases to exist, and its relations with it.
        parts: states in which what the event relates is parted again. Such a relation may hold with several at
            once; any other ends when its source begins it with another.
    """

    name: str
    subject: str
    meaning: str
    states: tuple[str, ...] = ()
    body: str = "text"
    relates: tuple[tuple[str, str, str], ...] = ()
    ends: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


# -- attributes -----------------------------------------------------------------------------------
SESSION = "misstep.session"  # site/kind/name/started
ENTITY = "misstep.entity"  # kind/id of what the record is about
STATE = "misstep.state"
EVENT_ID = "misstep.event.id"  # hex; a second record with the same id is a copy
SOURCE = "misstep.source"  # which probe read it
NODE_ENTITY = "misstep.node"  # kind/id of the node that the subject runs on
PROCESS_ENTITY = "misstep.process"
WORKER_ENTITY = "misstep.worker"
ACTOR_ENTITY = "misstep.actor"
JOB_ENTITY = "misstep.job"
PARENT_ENTITY = "misstep.parent"
CONTAINER_ENTITY = "misstep.container"  # kind/id of the container that a process runs in
POD_ENTITY = "misstep.pod"

HOST_ID = "host.id"
HOST_NAME = "host.name"
SERVICE = "service.name"
AGENT = "misstep.agent"

PID = "process.pid"
PROCESS_START = "process.start_ticks"  # clock ticks since boot, /proc/<pid>/stat field 22
COMMAND = "process.command_line"
PROCESS_TITLE = "process.title"  # argv[0] as the process shows it now, for example ray::tokenize
PROCESS_ROLE = "misstep.process.role"  # raylet, gcs, ray_worker, ray_driver, ray_system, rank, launcher, command, registered
PROCESS_UNREAD = "misstep.process.unread"  # what of it the agent may not read, for example environ
PROCESS_STATE = "process.state"
SWITCHES = "process.context_switches"  # so often its main thread has gone to sleep; alike in two readings, it woke in none
PROCESS_NAME = "process.executable.name"  # the kernel's name of it, at most 15 bytes
PARENT_PID = "process.parent_pid"
CGROUP = "cgroup"
OOM_CONSTRAINT = (
    "kernel.oom.constraint"  # CONSTRAINT_NONE (the machine was full), CONSTRAINT_MEMCG (a cgroup was), …
)
KERNEL_SEQUENCE = "kernel.log.sequence"
KERNEL_SUBJECT = "kernel.subject"  # nvswitch, mlx5, mce, edac, aer, disk, nvme, nfs, filesystem, lockup
XID = "hw.gpu.xid"
XID_CAUSE = "hw.gpu.xid.cause"  # the Xid that a clean-up (45) says it follows
SXID = "hw.nvswitch.sxid"
HW_ID = "hw.id"  # of a GPU in a kernel line: its PCI address
HW_TYPE = "hw.type"
HW_MODEL = "hw.model"
DRIVER_VERSION = "hw.driver_version"
MIG_INSTANCE = "hw.gpu.mig.instance"  # GPU instance/compute instance
GPU_ENTITY = "misstep.gpu"  # kind/id of the GPU that a process holds
MIG_ENTITY = "misstep.gpu.instance"  # kind/id of the MIG instance of it
GPU_INDEX = "hw.gpu.index"  # as NVML and nvidia-smi count them
GPU_UUID = "hw.gpu.uuid"
GPU_MEMORY = "hw.gpu.process.memory"  # bytes of GPU memory that a process holds
GPU_LINK = "hw.gpu.nvlink"  # number of an NVLink
GPU_REASON = "hw.gpu.throttle.reason"
GPU_VALUE = "hw.gpu.value"  # what an event of a GPU brought: a counter, a recovery action
POD = "k8s.pod.uid"
POD_NAME = "k8s.pod.name"
NAMESPACE = "k8s.namespace.name"
CONTAINER = "container.id"
CONTAINER_NAME = "k8s.container.name"
SLURM_JOB = "slurm.job.id"
SLURM_STEP = "slurm.step.id"
RANK = "torch.rank"
WORLD_SIZE = "torch.world_size"
GROUP = "torch.group"  # a process group's name, unique in its job
GROUP_LABEL = "torch.group.description"  # what the code that made it calls it, for example tp_0
SEQUENCE = "torch.sequence"  # of a collective in its group, from 1
OPERATION = "torch.operation"  # for example gloo:all_reduce
SIZES = "torch.sizes"  # of the inputs, as JSON
DTYPES = "torch.dtypes"
READING = "torch.reading"  # Unix nanoseconds; what was read of several ranks at one time carries the same
BACKEND = "torch.backend"
BEGUN = (
    "torch.begun"  # sequence of the last collective of a group that a log line says was begun, -1 for none
)
ENDED = "torch.ended"  # the same for the last that came to its end
TIMEOUT = "torch.timeout"  # milliseconds
WAITED = "torch.waited"  # milliseconds
OTHER_RANK = "torch.other.rank"
OTHER_OPERATION = "torch.other.operation"
PEER = "network.peer.address"
COMMUNICATOR = "nccl.communicator"  # address of it in its process, or the hash that its members share
NCCL_PRESENT = "nccl.ranks.present"  # of a communicator, those that RAS heard of
NCCL_VERSION = "nccl.version"
STEP = "training.step"  # as the script counts, told with misstep.workload
PHASE = "training.phase"  # data, forward, backward, optimizer, checkpoint, eval, rollout, weight_sync
PHASE_SECONDS = "training.phase.seconds"  # for how long the rank has been in it
TOKENS = "training.tokens"  # of one step
LOSS = "training.loss"
EXIT_CODE = "process.exit.code"
EXIT_SIGNAL = "process.exit.signal"  # name, for example SIGSEGV

RAY_SESSION_NAME = "ray.session.name"
RAY_TASK = "ray.task.id"
RAY_ATTEMPT = "ray.task.attempt"
RAY_TASK_NAME = "ray.task.name"
RAY_JOB = "ray.job.id"
RAY_ACTOR = "ray.actor.id"
RAY_ACTOR_CLASS = "ray.actor.class"
RAY_WORKER = "ray.worker.id"
RAY_NODE = "ray.node.id"
RAY_NODE_NAME = "ray.node.name"
RAY_ERROR_TYPE = "ray.error.type"
RAY_EXIT_TYPE = "ray.worker.exit_type"
RAY_SUBMISSION = "ray.submission.id"

FILE_PATH = "log.file.path"
FILE_OFFSET = "log.file.offset"  # bytes, where the line begins
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
THREAD = "thread.name"  # of an exception that ended a thread and not the process
EXCEPTION_STACK = "exception.stacktrace"

SOURCE_REASON = "misstep.source.reason"
SOURCE_REMEDY = "misstep.source.remedy"
DROPPED = "misstep.dropped"  # how many records or points a gap swallowed
DROPPED_KIND = "misstep.dropped.kind"

_PROCESS = (ENTITY, PID, PROCESS_START)
_GPU = (HW_ID, GPU_INDEX)
_HARDWARE = (*_GPU, HW_TYPE)

METRICS = (
    Metric("system.cpu.time", "sum", "s", "CPU time of the host by state", ("cpu.mode",)),
    Metric("system.memory.limit", "gauge", "By", "memory of the host"),
    Metric("system.memory.usage", "gauge", "By", "memory by state: used is limit minus available", ("system.memory.state",)),
    Metric("system.pressure.stall.time", "sum", "s", "time in which tasks stood still for want of a resource (PSI total)", ("resource", "stall")),
    Metric("system.disk.io", "sum", "By", "bytes read and written", ("system.device", "disk.io.direction")),
    Metric("system.disk.io_time", "sum", "s", "time the device was busy", ("system.device",)),
    Metric("system.disk.operations", "sum", "{operation}", "operations that a device finished", ("system.device", "disk.io.direction")),
    Metric("system.disk.operation_time", "sum", "s", "time that the finished operations took, each counted whole; over their number it is the latency", ("system.device", "disk.io.direction")),
    Metric("system.disk.in_flight", "gauge", "{operation}", "operations that a device has begun and not finished", ("system.device",)),
    Metric("system.filesystem.usage", "gauge", "By", "bytes by state of the filesystem", ("system.filesystem.mountpoint", "system.filesystem.state")),
    Metric("system.filesystem.inodes", "gauge", "{inode}", "inodes by state of the filesystem", ("system.filesystem.mountpoint", "system.filesystem.state")),
    Metric("system.clock.offset", "gauge", "s", "how far the kernel thinks its clock is from the time that it is being set to"),
    Metric("system.clock.error.max", "gauge", "s", "the kernel's bound of its clock's error; grows while nobody sets it"),
    Metric("system.clock.synchronized", "gauge", "1", "1 while NTP or PTP keeps the clock"),
    Metric("nfs.client.operations", "sum", "{operation}", "operations of an NFS mount", ("nfs.mountpoint",)),
    Metric("nfs.client.operation_time", "sum", "s", "time that they took, from the call to the answer, each counted whole", ("nfs.mountpoint",)),
    Metric("nfs.client.retransmissions", "sum", "{request}", "requests that were sent again", ("nfs.mountpoint",)),
    Metric("nfs.client.timeouts", "sum", "{request}", "requests that a server left unanswered for too long", ("nfs.mountpoint",)),
    Metric("system.network.io", "sum", "By", "bytes received and sent", ("network.interface.name", "network.io.direction")),
    Metric("system.network.errors", "sum", "{error}", "errors of an interface", ("network.interface.name", "network.io.direction")),
    Metric("hw.network.up", "gauge", "1", "1 while an InfiniBand or RoCE port is active", ("hw.id",)),
    Metric("hw.network.bandwidth.limit", "gauge", "By/s", "rate of a port in one direction", ("hw.id",)),
    Metric("hw.network.io", "sum", "By", "bytes of a port", ("hw.id", "network.io.direction")),
    Metric("hw.network.port.events", "sum", "{event}", "errors, retries and signs of congestion of a port, by the kernel's name of the counter", ("hw.id", "hw.network.counter")),
    Metric("hw.network.port.pause.time", "sum", "s", "time for which a RoCE port was held back by the other end (receive), or held it back (transmit), by priority", ("hw.id", "network.io.direction", "hw.network.priority")),
    Metric("process.memory.usage", "gauge", "By", "resident memory of a workload process", _PROCESS),
    Metric("process.cpu.time", "sum", "s", "CPU time of a workload process, user and system", _PROCESS),
    Metric("process.state", "gauge", "1", "1 for the state letter of /proc/<pid>/stat that the attribute names", (*_PROCESS, "process.state")),
    Metric("torch.collectives", "sum", "{collective}", "collectives that a rank has begun, in all its groups", (ENTITY, RANK)),
    Metric("torch.collectives.completed", "sum", "{collective}", "collectives of a rank that came to their end", (ENTITY, RANK)),
    Metric("training.step", "gauge", "{step}", "the step that a rank is in, as its script counts (`misstep.workload`)", (ENTITY, RANK)),
    Metric("training.tokens", "sum", "{token}", "tokens of all its steps so far", (ENTITY, RANK)),
    Metric("training.loss", "gauge", "1", "the loss that it told last", (ENTITY, RANK)),
    Metric("training.phase.time", "sum", "s", "time that it spent in a phase, those phases that are over", (ENTITY, RANK, PHASE)),
    Metric("cgroup.memory.usage", "gauge", "By", "memory charged to a workload's cgroup", ("cgroup",)),
    Metric("cgroup.memory.limit", "gauge", "By", "the cgroup's limit", ("cgroup",)),
    Metric("cgroup.memory.oom_kills", "sum", "{process}", "processes of the cgroup that the kernel killed for want of memory", ("cgroup",)),
    Metric("cgroup.cpu.throttled.time", "sum", "s", "time in which the cgroup's CPU limit held its tasks back", ("cgroup",)),
    Metric("cgroup.cpu.throttled.periods", "sum", "{period}", "periods in which it did", ("cgroup",)),
    Metric("hw.gpu.utilization", "gauge", "1", "share of time in which a kernel ran on the GPU", (*_GPU, "hw.gpu.task")),
    Metric("hw.gpu.memory.busy", "gauge", "1", "share of time in which its memory was read or written", _GPU),
    Metric("hw.gpu.memory.usage", "gauge", "By", "memory in use; of a MIG instance where the attribute names one", _GPU),
    Metric("hw.gpu.memory.limit", "gauge", "By", "memory of the GPU", _GPU),
    Metric("hw.power", "gauge", "W", "power drawn, mean of the last second on Ampere and later", _HARDWARE),
    Metric("hw.energy", "sum", "J", "energy used since the driver was loaded", _HARDWARE),
    Metric("hw.temperature", "gauge", "Cel", "temperature by sensor: gpu, memory", (*_HARDWARE, "hw.sensor_location")),
    Metric("hw.errors", "sum", "{error}", "ECC errors since the driver was loaded", (*_HARDWARE, "error.type")),
    Metric("hw.gpu.power.limit", "gauge", "W", "power that the GPU may draw", _GPU),
    Metric("hw.gpu.clock.frequency", "gauge", "Hz", "clock: sm, memory", (*_GPU, "hw.gpu.clock")),
    Metric("hw.gpu.throttle.time", "sum", "s", "time with lowered clocks by reason: power_cap, software_thermal, hardware_thermal, power_brake", (*_GPU, "hw.gpu.throttle.reason")),
    Metric("hw.gpu.sm.active", "gauge", "1", "share of streaming multiprocessors that were busy (Hopper and later)", _GPU),
    Metric("hw.gpu.sm.occupancy", "gauge", "1", "share of warps that were active (Hopper and later)", _GPU),
    Metric("hw.gpu.tensor.active", "gauge", "1", "share of time with tensor operations (Hopper and later)", _GPU),
    Metric("hw.gpu.memory.bandwidth.utilization", "gauge", "1", "share of memory bandwidth in use (Hopper and later)", _GPU),
    Metric("hw.gpu.pcie.throughput", "gauge", "By/s", "traffic over PCIe (Hopper and later)", (*_GPU, "network.io.direction")),
    Metric("hw.gpu.pcie.generation", "gauge", "{generation}", "PCIe generation of the link now; it falls when the GPU idles", _GPU),
    Metric("hw.gpu.pcie.width", "gauge", "{lane}", "PCIe lanes of the link now", _GPU),
    Metric("hw.gpu.pcie.replays", "sum", "{replay}", "packets that PCIe had to send again", _GPU),
    Metric("hw.gpu.nvlink.throughput", "gauge", "By/s", "traffic over all NVLinks (Hopper and later)", (*_GPU, "network.io.direction")),
    Metric("hw.gpu.nvlink.active", "gauge", "{link}", "NVLinks that are up", _GPU),
    Metric("hw.gpu.nvlink.errors", "sum", "{error}", "errors of all NVLinks: replay, recovery, crc", (*_GPU, "hw.gpu.nvlink.error")),
    Metric("hw.gpu.rows.remapped", "sum", "{row}", "memory rows that were replaced because of errors", (*_GPU, "error.type")),
    Metric("hw.gpu.rows.pending", "gauge", "{flag}", "1 while a replacement waits for a reset", _GPU),
    Metric("hw.gpu.rows.failed", "gauge", "{flag}", "1 after a row could not be replaced", _GPU),
    Metric("hw.gpu.recovery_action", "gauge", "{action}", "what the driver asks for: 0 nothing, 1 reset, 2 reboot, 3 drain, 4 drain and reset, 5 recover IMEX", _GPU),
    Metric("misstep.gpu.sweep.duration", "gauge", "s", "wall time of one reading of all GPUs; it grows when the driver is slow"),
    Metric("misstep.agent.spool.usage", "gauge", "By", "bytes that wait for the collector"),
    Metric("misstep.agent.dropped", "sum", "{record}", "records and points that the agent had to drop", (DROPPED_KIND,)),
    Metric("misstep.agent.cpu.time", "sum", "s", "CPU time of the agent itself"),
    Metric("misstep.agent.memory.usage", "gauge", "By", "resident memory of the agent itself"),
    Metric("misstep.probe.duration", "gauge", "s", "wall time of a probe's last reading", (SOURCE,)),
)  # fmt: skip

EVENTS = (
    Event("session.start", "session", "a cluster or job was found; attributes tell version, folder, addresses"),
    Event("session.end", "session", "a cluster or job is over; the body says how we know", ("ended", "lost")),
    Event(
        "source.state", "host",
        "whether a source of evidence could be read since the last such record; repeated each 30 s and at each change",
        ("ok", "unsupported", "failing", "off"),
    ),
    Event("agent.gap", "host", "records or points that were dropped or could not be read, with their number", body="reason"),
    Event("process.start", "process", "a workload process was seen first", relates=((ENTITY, "runs_on", NODE_ENTITY), (ENTITY, "child_of", PARENT_ENTITY), (ENTITY, "in", CONTAINER_ENTITY), (CONTAINER_ENTITY, "in", POD_ENTITY))),
    Event("process.exit", "process", "a workload process is gone; exit code or signal where they can be known", ("exited", "killed", "unknown"), ends=("exited", "killed", "unknown")),
    Event("process.exception", "process", "an uncaught Python exception ended a process that runs under `misstep run`, or one of its threads (`thread.name`)", body="traceback"),
    Event("command.start", "process", "`misstep run` started a command"),
    Event("command.exit", "process", "a command under `misstep run` ended; exit code or signal", ("exited", "killed"), ends=("exited", "killed")),
    Event("torch.rank", "rank", "a rank of a training job was found, or its groups changed; the body has the ranks of each group", body="json", relates=((ENTITY, "is", PROCESS_ENTITY),)),
    Event("torch.reading", "rank", "a rank's collectives were read: the body has, for each group, how many it has begun and how many came to their end, and the calls since the last reading", ("moving", "stopped", "silent", "gone"), "json"),
    Event("torch.collective", "rank", "one collective of a rank; its time is when the rank began it", ("scheduled", "started", "completed", "failed"), ""),
    Event("torch.stack", "rank", "where a rank stands: the stacks of its Python threads, innermost frame last", body="json"),
    Event(
        "torch.log", "rank", "a log line of NCCL, Gloo, PyTorch's watchdog, torchrun or DeepSpeed that says something of ranks or collectives; init_open: a communicator's initialisation was begun 30 s before and is not complete; error_file: what torchrun's error file of a rank says",
        ("watchdog_timeout", "work_status", "dump_signal", "mismatch", "gloo_timeout", "connection_lost", "size_mismatch", "init_start", "init_complete", "init_open", "nccl_warning", "rank_failed", "rank_ended", "launcher_ended", "error_file"), "line",
    ),
    Event("nccl.communicator", "session", "what NCCL's RAS says of a communicator: by operation how often which of its ranks launched it, ranks that are missing, ranks with an error. Unequal counts in one answer are nothing out of the ordinary", ("ok", "unequal", "missing", "error"), "json"),
    Event("kernel.oom_kill", "process", "the kernel killed a process for want of memory", body="kernel line"),
    Event("kernel.segfault", "process", "a process made an invalid access that nothing handled", body="kernel line"),
    Event("kernel.hung_task", "process", "a task was blocked in the kernel for longer than its limit", body="kernel line"),
    Event("hw.network.link", "host", "an InfiniBand or RoCE port came up or went down", ("up", "down")),
    Event("hw.gpu.xid", "gpu", "the NVIDIA driver reported an Xid", body="kernel line"),
    Event("hw.gpu.found", "gpu", "a GPU of this machine: model, driver, memory, links"),
    Event("hw.gpu.state", "gpu", "how a GPU stands, told when it changes; unresponsive: a call about it does not return", ("ok", "lost", "reset_required", "unresponsive")),
    Event("hw.gpu.driver", "host", "how the NVIDIA driver as a whole stands, told when it changes; released: the agent let go of it on demand", ("ok", "unresponsive", "gone", "released")),
    Event(
        "hw.gpu.event", "gpu", "NVML told of something, or a counter of its rose",
        ("xid", "ecc_uncorrected", "ecc_storm", "retirement", "remap_pending", "remap_failed", "poison", "unavailable", "recovery_action", "mig", "nvlink_down", "nvlink_up", "nvlink_errors", "fabric", "throttled", "throttle_end", "other"),
    ),
    Event("hw.gpu.process", "process", "a process holds a GPU, or held it: who it is, its rank, container and pod", ("held", "released"), relates=((ENTITY, "uses", GPU_ENTITY), (ENTITY, "uses", MIG_ENTITY)), parts=("released",)),
    Event("hw.gpu.instance", "gpu", "an instance of MIG was found on a GPU", relates=((ENTITY, "part_of", GPU_ENTITY),)),
    Event("hw.gpu.allocation", "gpu", "kubelet gave the GPU, a share of it or a MIG instance to a container, or took it back; withdrawn: it no longer has the GPU to give", ("given", "returned", "withdrawn", "offered"), relates=((POD_ENTITY, "holds", ENTITY),), parts=("returned",)),
    Event("kernel.device", "host", "a device or file server failed, corrected an error or came back, says the kernel: `kernel.subject` tells the kind, `hw.id` which", ("failed", "corrected", "recovered"), "kernel line"),
    Event("kernel.message", "host", "any other kernel record of severity warning or worse", body="kernel line"),
    Event("ray.node.definition", "ray_node", "a Ray node joined", body="json"),
    Event("ray.node.lifecycle", "ray_node", "a Ray node's states; ALIVE brings its resources, DEAD why", ("ALIVE", "DEAD"), "json", ends=("DEAD",)),
    Event("ray.worker.definition", "ray_worker", "which process and node a Ray worker is", body="json", relates=((ENTITY, "runs_on", NODE_ENTITY), (ENTITY, "is", PROCESS_ENTITY))),
    Event("ray.worker.lifecycle", "ray_worker", "a Ray worker's states; DEAD brings exit type and detail", ("ALIVE", "DEAD"), "json", ends=("DEAD",)),
    Event("ray.job.definition", "job", "a driver connected", body="json"),
    Event("ray.job.lifecycle", "job", "a driver's states; FINISHED does not say how", ("CREATED", "FINISHED"), "json", ends=("FINISHED",)),
    Event("ray.submission", "job", "status of a submitted job, with message and exit code of its driver", ("PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"), "json"),
    Event("ray.actor.definition", "actor", "an actor was declared", body="json"),
    Event("ray.actor.lifecycle", "actor", "an actor's states; DEAD brings the death cause", ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD"), "json", ((ENTITY, "runs_on", WORKER_ENTITY),), ("DEAD",)),
    Event("ray.task.definition", "task", "a task was submitted: function, resources, parent, call site", body="json"),
    Event("ray.actor_task.definition", "task", "a call of an actor's method was submitted", body="json"),
    Event("ray.task.lifecycle", "task", "states of one attempt of a task, parts of which come from several processes; the state attribute is the last in the record", ("PENDING_ARGS_AVAIL", "PENDING_NODE_ASSIGNMENT", "PENDING_OBJ_STORE_MEM_AVAIL", "PENDING_ARGS_FETCH", "SUBMITTED_TO_WORKER", "PENDING_ACTOR_TASK_ARGS_FETCH", "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY", "GETTING_AND_PINNING_ARGS", "RUNNING", "RUNNING_IN_RAY_GET", "RUNNING_IN_RAY_WAIT", "FINISHED", "FAILED"), "json", ((ENTITY, "runs_on", WORKER_ENTITY),), ("FINISHED", "FAILED")),
    Event("ray.task.profile", "task", "what a worker did when for a task", body="json"),
    Event("ray.placement_group", "group", "state of a placement group that waits for resources", ("PENDING", "PREPARED", "CREATED", "REMOVED", "RESCHEDULING"), "json"),
    Event("ray.placement_group.definition", "group", "a placement group was asked for: bundles and strategy", body="json"),
    Event("ray.submission.definition", "job", "a job was submitted: entrypoint and what it asks for", body="json"),
    Event("ray.platform", "", "what the platform under Ray (Kubernetes) reported through Ray", body="json"),
    Event("ray.demand", "session", "resources that Ray says nobody can give or all of which are held, as its autoscaler and scheduler report them", body="json"),
)  # fmt: skip

SOURCES = {
    "host": "load, memory and pressure of the machine (/proc)",
    "processes": "processes of the workload (/proc)",
    "process_exits": "exit codes and signals (kernel process connector)",
    "kernel_log": "kernel log (/dev/kmsg)",
    "gpu": "NVIDIA GPUs (NVML)",
    "pod_resources": "which GPU kubelet gave to which container (pod-resources socket)",
    "infiniband": "InfiniBand and RoCE ports (/sys/class/infiniband)",
    "ray_events": "Ray's event stream",
    "ray_metrics": "Ray's Prometheus ports",
    "ray_logs": "files in the Ray session's logs folder",
    "ray_api": "Ray's dashboard",
    "driver_exceptions": "uncaught exceptions of the driver (needs `misstep run`)",
    "torch_collectives": "collectives of torch's ranks (Flight Recorder, needs `misstep run`)",
    "torch_stacks": "stacks of torch's ranks (py-spy, else the hook in the rank)",
    "nccl_ras": "NCCL's own account of its communicators (RAS, from 2.28.7 on)",
    "training_logs": "log files of training jobs: stdout and stderr where they are files, NCCL_DEBUG_FILE, torchrun's error files",
    "agent": "the agent itself",
}
"""Every source of evidence, as a person would call it."""

_BY_EVENT = {event.name: event for event in EVENTS}
_BY_METRIC = {metric.name: metric for metric in METRICS}


def event(name: str) -> Event:
    """The declaration of an event.

    Raises:
        KeyError: nobody declared it.
    """
    return _BY_EVENT[name]


def metric(name: str) -> Metric:
    """The declaration of a metric.

    Raises:
        KeyError: nobody declared it.
    """
    return _BY_METRIC[name]
