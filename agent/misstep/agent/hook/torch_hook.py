"""What a training process tells of its collectives; `sitecustomize` runs it as torch.distributed is imported.

With the first process group two unix sockets appear in MISSTEP_TORCH_FOLDER, both mode 0600 and named by process:

    <pid namespace>-<pid>.fr   torch's own C++ worker server. `POST /handler/fr_trace_json` answers while the rank
                               hangs, even while C code holds the interpreter's lock.
    <pid namespace>-<pid>.py   this module's thread. A byte asks, four bytes of length and JSON answer:
                               s state of every group (0.1 ms), and the step and phase that the script tells
                               with misstep.workload, h who this is, t stacks of its threads, d the Flight
                               Recorder, where there is no worker server.

Nothing is patched and nothing stays in torch: a dictionary that waits for the first group gives way to the plain one.
No handler is written in Python: the worker server would call it while the interpreter ends, and take the process down.
"""

# mypy: ignore-errors
# Untyped, so that it runs on the oldest Python that a user's environment may have.
import atexit
import os
import sys

_ANY_LENGTH = 4
_SUN_PATH = 107
_QUIET = 3  # FATAL, of c10's log levels
_PR_SET_PTRACER = 0x59616D61
_held = []  # never given back: the worker server's destructor talks to stderr


def watch(c10d):
    """Wait for the first process group."""
    if not isinstance(getattr(c10d, "_pg_map", None), dict) or c10d._pg_map:
        return

    class Waits(dict):
        def __setitem__(self, group, value):
            plain = dict(self)
            plain[group] = value
            c10d._pg_map = plain
            try:
                _start(c10d)
            except Exception:  # noqa: BLE001, S110  nothing of ours may show
                pass

    c10d._pg_map = Waits()


def _start(c10d):
    import socket
    import threading

    folder = os.environ["MISSTEP_TORCH_FOLDER"]
    os.makedirs(folder, mode=0o700, exist_ok=True)
    held = os.stat(folder)
    if held.st_uid != os.geteuid() or held.st_mode & 0o022:
        return
    base = os.path.join(folder, f"{os.stat('/proc/self/ns/pid').st_ino}-{os.getpid()}")
    if len(os.fsencode(base)) + 3 > _SUN_PATH:
        return
    for end in (".fr", ".py"):
        if os.path.exists(base + end):
            os.unlink(base + end)
    server = _worker_server(base + ".fr")
    door = socket.socket(socket.AF_UNIX)
    door.bind(base + ".py")
    os.chmod(base + ".py", 0o600)
    door.listen(4)
    told, wake = socket.socketpair()
    teller = _Teller(c10d, door, told, server is not None)
    thread = threading.Thread(target=teller.run, name="misstep", daemon=True)
    thread.start()
    owner = os.getpid()
    _held.extend((server, wake))

    def close():
        # Before the interpreter ends: no thread of ours may be inside torch by then.
        if os.getpid() != owner:
            return
        wake.close()
        thread.join(1.0)
        if server is not None:
            _quietly(server.shutdown)
        for end in (".fr", ".py"):
            try:
                os.unlink(base + end)
            except OSError:
                pass

    def forget():
        # A forked child has the sockets and not the threads that answer on them.
        for one in (door, told, wake):
            one.close()

    atexit.register(close)
    os.register_at_fork(after_in_child=forget)


def _worker_server(path):
    """Torch's worker server, or None where there is none that can be started without a word."""
    try:
        from torch._C._distributed_c10d import _WorkerServer

        server = _quietly(_WorkerServer, path)
        os.chmod(path, 0o600)
        return server
    except Exception:  # noqa: BLE001  torch before 2.4, or another build
        return None


def _quietly(call, *arguments):
    """Call with torch's C++ warnings held back: the server logs its start and end to stderr."""
    import ctypes

    level = ctypes.c_int.in_dll(ctypes.CDLL("libc10.so"), "FLAGS_caffe2_log_level")
    before = level.value
    level.value = _QUIET
    try:
        return call(*arguments)
    finally:
        level.value = before


class _Teller:
    """Answers on the second socket until it is told to end."""

    def __init__(self, c10d, door, told, server):
        self.c10d = c10d
        self.door = door
        self.told = told
        self.server = server

    def run(self):
        """Serve; a thread of its own, asleep between questions."""
        import select

        poll = select.poll()
        links = {}
        for one in (self.door, self.told):
            poll.register(one, select.POLLIN)
        while True:
            for number, _ in poll.poll():
                if number == self.told.fileno():
                    return
                if number == self.door.fileno():
                    link, _ = self.door.accept()
                    if self._admits(link):
                        link.settimeout(0.5)
                        links[link.fileno()] = link
                        poll.register(link, select.POLLIN)
                    continue
                try:
                    asked = links[number].recv(1)
                    if asked:
                        self._answer(links[number], asked)
                        continue
                except Exception:  # noqa: BLE001, S110
                    pass
                poll.unregister(number)
                links.pop(number).close()

    def _admits(self, link):
        """Let in root and our own user, and let them trace this process: many systems forbid it to all but a parent."""
        import ctypes
        import socket
        import struct

        pid, user, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user not in (0, os.geteuid()):
            link.close()
            return False
        if pid > 0:
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, pid, 0, 0, 0)
        return True

    def _answer(self, link, asked):
        import json

        if asked == b"s":
            body = b"[" + b",".join([*self._traces(False), *_told()]) + b"]"
        elif asked == b"d":
            body = b"[" + b",".join(self._traces(True)) + b"]"
        elif asked == b"h":
            body = json.dumps(self._hello()).encode()
        elif asked == b"t":
            body = json.dumps(_stacks()).encode()
        else:
            body = b"{}"
        link.sendall(len(body).to_bytes(_ANY_LENGTH, "big") + body)

    @staticmethod
    def _traces(entries):
        """What the Flight Recorders hold, as JSON: one of NCCL, where the build has it, and one of everything else."""
        from torch._C import _distributed_c10d as bindings

        for name in ("_dump_nccl_trace_json", "_dump_fr_trace_json"):
            dump = getattr(bindings, name, None)
            if dump is not None:
                text = dump(entries, False)
                yield text if isinstance(text, bytes) else text.encode()

    def _hello(self):
        world = self.c10d._world
        groups = {}
        for group, name in list(world.pg_names.items()):
            members = world.pg_group_ranks.get(group) or {}
            backend = world.pg_map.get(group, ("", None))[0]
            groups[str(name)] = {
                "ranks": sorted(members),
                "desc": str(getattr(group, "group_desc", "") or ""),
                "backend": str(backend),
            }
        default = self.c10d.is_initialized()
        environ = os.environ
        return {
            "pid": os.getpid(),
            "rank": self.c10d.get_rank() if default else int(environ.get("RANK", "-1")),
            "world_size": self.c10d.get_world_size() if default else int(environ.get("WORLD_SIZE", "0")),
            "groups": groups,
            "handlers": _handlers() if self.server else [],
            "argv": list(getattr(sys, "orig_argv", None) or sys.argv)[:64],
            "torch": str(getattr(sys.modules.get("torch"), "__version__", "")),
            "environ": {
                name: environ[name]
                for name in (
                    "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID",
                    "TORCHELASTIC_RESTART_COUNT", "TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE",
                )
                if name in environ
            },
        }  # fmt: skip


def _told():
    """Step and phase, where the script tells them; always the last in the answer."""
    import json

    progress = getattr(sys.modules.get("misstep.workload.progress"), "CURRENT", None)
    if progress is not None and (progress.step >= 0 or progress.phase):
        yield b'{"workload":' + json.dumps(progress.standing()).encode() + b"}"


def _handlers():
    """Handlers of torch's worker server that hold a Flight Recorder; NCCL keeps one of its own."""
    from torch._C import _distributed_c10d as bindings

    nccl = ["dump_nccl_trace_json"] if hasattr(bindings, "_dump_nccl_trace_json") else []
    return [*nccl, "fr_trace_json"]


def _stacks():
    """Frames of every thread, innermost last, as (function, file, line), and the method that the innermost is calling."""
    import threading

    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    found = []
    for ident, frame in sys._current_frames().items():
        frames, call = [], _call(frame)
        while frame is not None and len(frames) < 200:
            frames.append([frame.f_code.co_name, frame.f_code.co_filename, frame.f_lineno])
            frame = frame.f_back
        name = "MainThread" if ident == main else names.get(ident, str(ident))
        if name != "misstep":
            found.append({"thread": name, "frames": frames[::-1], "call": call})
    return found


def _call(frame):
    """The method whose call a frame waits for, by its bytecode: what C code does leaves no frame. Empty for all else."""
    import dis  # torch has it by `inspect`

    name = ""
    for one in dis.get_instructions(frame.f_code):
        if one.offset >= frame.f_lasti:
            return name if one.opname.startswith("CALL") else ""
        if one.opname in ("LOAD_METHOD", "LOAD_ATTR"):
            name = one.argval
    return ""
