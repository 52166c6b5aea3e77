"""Where ranks put their sockets. A socket's path ends at 107 bytes, so these folders are short."""

from __future__ import annotations

import os
from collections.abc import Mapping
from glob import glob


def own(environ: Mapping[str, str]) -> str:
    """The folder of this user's ranks: below ``$XDG_RUNTIME_DIR``, else below ``/tmp``."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    base = f"{runtime}/misstep" if runtime and os.path.isdir(runtime) else f"/tmp/misstep-{os.geteuid()}"
    return f"{base}/torch"


def watched(setting: str) -> list[str]:
    """The folders that an agent looks into: the one that is set, else its user's own, and for root everybody's."""
    if setting:
        return [setting]
    found = {own(os.environ)}
    if os.geteuid() == 0:
        found |= {*glob("/run/user/*/misstep/torch"), *glob("/tmp/misstep-*/torch")}
    return sorted(found)
