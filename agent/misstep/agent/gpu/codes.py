"""Numbers and names of NVML that both the agent and its child need: return codes, events, calls. No ctypes here."""

from __future__ import annotations

OK, UNINITIALIZED, NOT_SUPPORTED, DRIVER_NOT_LOADED, TIMEOUT = 0, 1, 3, 9, 10
FUNCTION_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED, VERSION_MISMATCH = 13, 15, 16, 18
NO_PERMISSION, INSUFFICIENT_SIZE = 4, 7

ERRORS = {
    1: "NVML is not initialised", 4: "this user may not", 9: "the NVIDIA driver is not loaded", 10: "the driver did not answer in time",
    12: "the library was not found", 13: "the library has no such call", 15: "the GPU is lost", 16: "the GPU must be reset",
    17: "the GPU is blocked by the operating system", 18: "driver and library are of different versions; a restart of the machine or of the container mends it",
    999: "an unknown error of the driver",
}  # fmt: skip
"""What return codes mean, as a person would say it."""

FABRIC_COMPLETED = 3

EVENT_SINGLE_BIT, EVENT_DOUBLE_BIT, EVENT_XID, EVENT_MIG = 0x1, 0x2, 0x8, 0x100
EVENT_STORM, EVENT_RETIREMENT, EVENT_RETIREMENT_FAILED = 0x200, 0x400, 0x800
EVENT_POISON, EVENT_FATAL_POISON, EVENT_UNAVAILABLE, EVENT_RECOVERY = 0x1000, 0x2000, 0x4000, 0x8000
EVENTS = (
    EVENT_DOUBLE_BIT | EVENT_XID | EVENT_MIG | EVENT_STORM | EVENT_RETIREMENT | EVENT_RETIREMENT_FAILED
    | EVENT_POISON | EVENT_FATAL_POISON | EVENT_UNAVAILABLE | EVENT_RECOVERY
)  # fmt: skip
"""What is asked for: single bits, clocks and power states come too often and are read as counters."""

CALLS = {
    "nvmlInitWithFlags": "U",
    "nvmlShutdown": "",
    "nvmlSystemGetDriverVersion": "PU",
    "nvmlDeviceGetCount_v2": "P",
    "nvmlDeviceGetHandleByIndex_v2": "UP",
    "nvmlDeviceGetName": "PPU",
    "nvmlDeviceGetUUID": "PPU",
    "nvmlDeviceGetMinorNumber": "PP",
    "nvmlDeviceGetPciInfo_v3": "PP",
    "nvmlDeviceGetUtilizationRates": "PP",
    "nvmlDeviceGetMemoryInfo": "PP",
    "nvmlDeviceGetPowerUsage": "PP",
    "nvmlDeviceGetEnforcedPowerLimit": "PP",
    "nvmlDeviceGetTemperature": "PUP",
    "nvmlDeviceGetClockInfo": "PUP",
    "nvmlDeviceGetMaxClockInfo": "PUP",
    "nvmlDeviceGetCurrPcieLinkGeneration": "PP",
    "nvmlDeviceGetCurrPcieLinkWidth": "PP",
    "nvmlDeviceGetFieldValues": "PIP",
    "nvmlDeviceGetComputeRunningProcesses_v3": "PPP",
    "nvmlDeviceGetGpuFabricInfoV": "PP",
    "nvmlDeviceGetMigMode": "PPP",
    "nvmlDeviceGetMaxMigDeviceCount": "PP",
    "nvmlDeviceGetMigDeviceHandleByIndex": "PUP",
    "nvmlDeviceGetGpuInstanceId": "PP",
    "nvmlDeviceGetComputeInstanceId": "PP",
    "nvmlGpmQueryDeviceSupport": "PP",
    "nvmlGpmSampleAlloc": "P",
    "nvmlGpmSampleFree": "P",
    "nvmlGpmSampleGet": "PP",
    "nvmlGpmMigSampleGet": "PUP",
    "nvmlGpmMetricsGet": "P",
    "nvmlEventSetCreate": "P",
    "nvmlEventSetFree": "P",
    "nvmlDeviceGetSupportedEventTypes": "PP",
    "nvmlDeviceRegisterEvents": "PLP",
    "nvmlEventSetWait_v2": "PPU",
}
"""Every call that is made, with its arguments: P a pointer or handle, U 32 bits, L 64 bits, I an int."""

NAMES = tuple(CALLS)
"""Every call by its number."""


def error(code: int) -> str:
    """What a return code means."""
    return ERRORS.get(code, f"NVML error {code}")
