"""NVML by ctypes: the calls that are read, and nothing else. Numbers and layouts are those of nvml.h.

Never called, because they are slow where they exist: PcieThroughput (20 ms each way), GraphicsRunningProcesses
(4 ms), FanSpeed.
"""

from __future__ import annotations

import struct
from ctypes import CDLL, c_int, c_uint, c_ulonglong, c_void_p

from misstep.agent.gpu.codes import CALLS, FUNCTION_NOT_FOUND

FIELD = struct.Struct("<IIqqII8s")
"""nvmlFieldValue_t: field, scope, timestamp, latency, type, return, value."""
FIELD_FORMS = {0: "d", 1: "I4x", 2: "Q", 3: "Q", 4: "q", 5: "i4x", 6: "H6x"}
"""How a value lies in its eight bytes, by nvmlValueType_t."""
PROCESS = struct.Struct("<I4xQII")
"""nvmlProcessInfo_t, version 2 and 3: pid, bytes, GPU instance, compute instance."""
NO_INSTANCE = 0xFFFFFFFF
EVENT = struct.Struct("<QQQII")
"""nvmlEventData_t: handle, type, data, GPU instance, compute instance."""
GPM_HEAD = struct.Struct("<IIQQ")
"""nvmlGpmMetricsGet_t up to its metrics: version, number, first sample, second sample."""
GPM_METRIC = struct.Struct("<IId24x")
"""nvmlGpmMetric_t: metric, return, value, names."""
GPM_VERSION = 1
PCI_BUS_ID = 36
"""Where in nvmlPciInfo_t the address begins."""
PCI_SIZE = 68
FABRIC = struct.Struct("<I16xIIIIB3x")
"""nvmlGpuFabricInfo_v3_t: version, cluster, status, clique, state, health, summary."""
FABRIC_VERSION = 0x3000028

_TYPES = {"P": c_void_p, "U": c_uint, "L": c_ulonglong, "I": c_int}


class Library:
    """The calls of libnvidia-ml, bound once. What an old driver lacks answers `FUNCTION_NOT_FOUND`.

    Args:
        path: of the library, or its name for the loader.

    Raises:
        OSError: it cannot be loaded.
    """

    def __init__(self, path: str) -> None:
        library = CDLL(path)
        self._bound = {}
        for name, letters in CALLS.items():
            try:
                call = getattr(library, name)
            except AttributeError:
                self._bound[name] = _absent
                continue
            call.argtypes, call.restype = [_TYPES[letter] for letter in letters], c_int
            self._bound[name] = call

    def __getitem__(self, name: str):  # type: ignore[no-untyped-def]  # typing is not imported in the child
        """A call by its name: arguments in, return code out."""
        return self._bound[name]


def _absent(*arguments: object) -> int:
    return FUNCTION_NOT_FOUND
