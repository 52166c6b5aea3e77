"""Where ranks put their sockets. A socket's path ends at 107 bytes, so these folders are short."""

from __future__ import annotations

import os
from collections.abc import Mapping


def own(environ: Mapping[str, str]) -> str:
    """The folder of this user's ranks: below ``$XDG_RUNTIME_DIR``, else below ``/tmp``."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    base = f"{runtime}/misstep" if runtime and os.path.isdir(runtime) else f"/tmp/misstep-{os.geteuid()}"
    return f"{base}/torch"


def watched(setting: str) -> list[str]:
    """The folders that an agent looks into: the one that is set, else its user's own, and for root everybody's."""
    if setting:
        return [setting]
    mine = own(os.environ)
    if os.geteuid() != 0:
        return [mine]
    others = [f"/run/user/{name}/misstep/torch" for name in _listed("/run/user")]
    others += [f"/tmp/{name}/torch" for name in _listed("/tmp") if name.startswith("misstep-")]
    return sorted({mine, *(path for path in others if os.path.isdir(path))})


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
