"""Tells the agent on this machine of the exception that ends this process. `misstep run` puts it on PYTHONPATH.

Python imports `sitecustomize` at its start. This one stands alone (no import of Misstep, Python >= 3.8), prints
nothing, changes neither output nor exit status, and then makes way for the `sitecustomize` that it hid.
MISSTEP_HOOK=0 switches it off; MISSTEP_REPORT says where to. Where MISSTEP_TORCH_FOLDER names a folder, it waits for
torch's collectives to be imported and hands over to `torch_hook`.

A driver that dies of `ray.get()` shuts its cluster down at once, and what Ray would have reported of its last
second can be lost. The text of the exception names function, pid, node, file and line.
"""

# mypy: ignore-errors
# Untyped, so that it runs on the oldest Python that a user's environment may have.
import atexit
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_PATIENCE = 1.5  # seconds for an agent on a machine that has more to do than it can
_told = []
_told_of_threads = []


def _report(url, kind, value, trace, thread=""):
    import json
    import socket
    import time
    import traceback

    stack = "".join(traceback.format_exception(kind, value, trace))
    if len(stack) > 60000:
        stack = stack[:15000] + "\n[... left out ...]\n" + stack[-45000:]
    attributes = {
        "process.pid": os.getpid(),
        "process.command_line": " ".join(getattr(sys, "orig_argv", None) or [sys.executable, *sys.argv])[
            :4000
        ],
        "exception.type": _name(kind),
        "exception.message": str(value)[:8000],
    }
    cause = getattr(value, "cause", None) or value.__cause__
    if isinstance(cause, BaseException):
        attributes["exception.cause.type"] = _name(type(cause))
        attributes["exception.cause.message"] = str(cause)[:4000]
    place = None
    while trace is not None:  # the innermost frame that is not Ray's own
        if (
            place is None
            or os.sep + os.path.join("site-packages", "ray", "") not in trace.tb_frame.f_code.co_filename
        ):
            place = trace
        trace = trace.tb_next
    if place is not None:
        attributes["code.file.path"] = place.tb_frame.f_code.co_filename
        attributes["code.line.number"] = place.tb_lineno
        attributes["code.function.name"] = place.tb_frame.f_code.co_name
    if thread:
        attributes["thread.name"] = thread
    attributes.update(_ray())
    body = json.dumps(
        {"event": "process.exception", "ts": time.time_ns(), "body": stack, "attributes": attributes}
    ).encode()
    host, _, rest = url[len("http://") :].partition(":")
    port, _, path = rest.partition("/")
    head = (
        f"POST /{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=_PATIENCE) as link:
        link.sendall(head.encode() + body)
        link.recv(64)


def _report_interrupt(url):
    # Built-in modules only: most others call eval() as they are imported, and after that Python exits with status 1
    # where it would have ended by SIGINT.
    import _socket
    import time

    body = (
        f'{{"event": "process.exception", "ts": {time.time_ns()}, "body": "KeyboardInterrupt", "attributes": '
        f'{{"process.pid": {os.getpid()}, "exception.type": "KeyboardInterrupt", "exception.message": ""}}}}'
    )
    host, _, rest = url[len("http://") :].partition(":")
    port, _, path = rest.partition("/")
    head = (
        "POST /%s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nContent-Type: application/json\r\n"
        "Content-Length: %d\r\nConnection: close\r\n\r\n"
    )
    link = _socket.socket()
    try:
        link.settimeout(0.5)
        link.connect((host, int(port)))
        link.sendall((head % (path, port, len(body)) + body).encode())
        link.recv(64)
    finally:
        link.close()


def _name(kind):
    module = getattr(kind, "__module__", "")
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def _ray():
    """Whose driver or worker this is, from what the process has loaded already."""
    found = {}
    worker = getattr(sys.modules.get("ray._private.worker"), "global_worker", None)
    for key, read in (
        ("ray.session.name", lambda: worker.node.session_name),
        ("ray.job.id", lambda: worker.current_job_id.hex()),
        ("ray.node.id", lambda: worker.current_node_id.hex()),
        ("ray.worker.id", lambda: worker.worker_id.hex()),
    ):
        try:
            text = read()
            if isinstance(text, str) and text.strip("f"):
                found[key] = text
        except Exception:  # noqa: BLE001, S110  the process is ending, and nothing of ours may show
            pass
    return found


def _tell(kind, value, trace):
    # sys.exit is no exception to tell of, and at a prompt one ends nothing. Ctrl-C is told, because Ray turns it into
    # exit status 1, which nobody could tell from a failure.
    if (
        _told
        or not isinstance(value, (Exception, KeyboardInterrupt))
        or hasattr(sys, "ps1")
        or sys.flags.interactive
    ):
        return
    _told.append(value)
    try:
        if isinstance(value, KeyboardInterrupt):
            _report_interrupt(os.environ["MISSTEP_REPORT"])
        else:
            _report(os.environ["MISSTEP_REPORT"], kind, value, trace)
    except Exception:  # noqa: BLE001, S110
        pass


def _tell_of_thread(args):
    # The process lives on; only what becomes of it says whether this mattered. Told once: a thread may fail often.
    if _told_of_threads or not isinstance(args.exc_value, Exception):
        return
    _told_of_threads.append(True)
    name = getattr(args.thread, "name", "") or "unnamed"
    try:
        _report(os.environ["MISSTEP_REPORT"], args.exc_type, args.exc_value, args.exc_traceback, name)
    except Exception:  # noqa: BLE001, S110
        pass


class _TorchWaits:
    """A finder that finds nothing itself: at the first import of torch's collectives it steps aside and looks on."""

    MODULE = "torch.distributed.distributed_c10d"

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != cls.MODULE:
            return None
        sys.meta_path.remove(cls)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                cls._follow(spec.loader)
                return spec
        return None

    @staticmethod
    def _follow(loader):
        """Run once behind the module's own code; the attribute hides the loader's method until then."""
        execute = loader.exec_module

        def exec_module(module):
            del loader.exec_module
            execute(module)
            try:
                code = {"__name__": "misstep_torch_hook", "__file__": os.path.join(_HERE, "torch_hook.py")}
                with open(code["__file__"], "rb") as file:
                    exec(compile(file.read(), code["__file__"], "exec"), code)  # noqa: S102
                code["watch"](module)
            except Exception:  # noqa: BLE001, S110
                pass

        try:
            loader.exec_module = exec_module
        except Exception:  # noqa: BLE001, S110  a loader that takes no attributes: its ranks are seen from outside
            pass


def _install():
    if os.environ.get("MISSTEP_HOOK", "1") == "0":
        return
    if os.environ.get("MISSTEP_TORCH_FOLDER"):
        sys.meta_path.insert(0, _TorchWaits)
    if os.environ.get("MISSTEP_REPORT", "").startswith("http://"):
        _install_reports()


def _install_reports():
    import threading

    inner, of_thread = sys.excepthook, threading.excepthook

    def excepthook(kind, value, trace):
        _tell(kind, value, trace)
        return inner(kind, value, trace)

    def thread_excepthook(args):
        _tell_of_thread(args)
        return of_thread(args)

    def last_word():
        # Reached with nothing told when somebody replaced sys.excepthook and did not call the one before.
        value = getattr(sys, "last_value", None)
        if value is not None:
            _tell(type(value), value, getattr(sys, "last_traceback", None))

    sys.excepthook = excepthook
    threading.excepthook = thread_excepthook
    atexit.register(last_word)


def _make_way():
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _HERE]
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        if ours is not None:
            sys.modules.setdefault("sitecustomize", ours)


try:
    _install()
except Exception:  # noqa: BLE001, S110
    pass
_make_way()
