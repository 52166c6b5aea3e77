"""What is read by number and offset is what NVIDIA's own binding says."""

from __future__ import annotations

from ctypes import sizeof

import pytest

from misstep.agent.gpu import codes, nvml, readings

p = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")


def test_structures() -> None:
    assert nvml.FIELD.size == sizeof(p.c_nvmlFieldValue_t)
    assert p.c_nvmlFieldValue_t.value.offset == nvml.FIELD.size - 8
    assert p.c_nvmlFieldValue_t.valueType.offset == 24
    assert nvml.PROCESS.size == sizeof(p.c_nvmlProcessInfo_v3_t if hasattr(p, "c_nvmlProcessInfo_v3_t") else p.c_nvmlProcessInfo_t)  # fmt: skip
    assert nvml.EVENT.size == sizeof(p.c_nvmlEventData_t)
    assert nvml.GPM_METRIC.size == sizeof(p.c_nvmlGpmMetric_t)
    assert nvml.GPM_HEAD.size == p.c_nvmlGpmMetricsGet_t.metrics.offset
    assert (p.nvmlPciInfo_t.busId.offset, sizeof(p.nvmlPciInfo_t)) == (nvml.PCI_BUS_ID, nvml.PCI_SIZE)
    assert nvml.FABRIC.size == sizeof(p.c_nvmlGpuFabricInfo_v3_t)
    assert p.nvmlGpuFabricInfo_v3 == nvml.FABRIC_VERSION


def test_numbers() -> None:
    assert codes.GPU_IS_LOST == p.NVML_ERROR_GPU_IS_LOST
    assert codes.RESET_REQUIRED == p.NVML_ERROR_RESET_REQUIRED
    assert codes.VERSION_MISMATCH == p.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    assert codes.TIMEOUT == p.NVML_ERROR_TIMEOUT
    assert p.nvmlEventTypeXidCriticalError == codes.EVENT_XID
    assert p.nvmlEventTypeGpuUnavailableError == codes.EVENT_UNAVAILABLE
    assert p.nvmlEventTypeGpuRecoveryAction == codes.EVENT_RECOVERY
    assert codes.FABRIC_COMPLETED == p.NVML_GPU_FABRIC_STATE_COMPLETED
    fields = {metric: field for field, _, _, metric in (*readings.FAST_FIELDS, *readings.SLOW_FIELDS)}
    assert fields == {
        "hw.temperature|memory": p.NVML_FI_DEV_MEMORY_TEMP,
        "hw.energy": p.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
        "hw.gpu.throttle.time|power_cap": p.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP,
        "hw.gpu.throttle.time|software_thermal": p.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN,
        "hw.gpu.throttle.time|hardware_thermal": p.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN,
        "hw.gpu.throttle.time|power_brake": p.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN,
        "hw.errors|corrected": p.NVML_FI_DEV_ECC_SBE_VOL_TOTAL,
        "hw.errors|uncorrected": p.NVML_FI_DEV_ECC_DBE_VOL_TOTAL,
        "hw.gpu.rows.remapped|corrected": p.NVML_FI_DEV_REMAPPED_COR,
        "hw.gpu.rows.remapped|uncorrected": p.NVML_FI_DEV_REMAPPED_UNC,
        "hw.gpu.rows.pending": p.NVML_FI_DEV_REMAPPED_PENDING,
        "hw.gpu.rows.failed": p.NVML_FI_DEV_REMAPPED_FAILURE,
        "hw.gpu.pcie.replays": p.NVML_FI_DEV_PCIE_REPLAY_COUNTER,
        "hw.gpu.recovery_action": p.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
    }
    assert {metric: number for number, _, metric in readings.GPM} == {
        "hw.gpu.sm.active": p.NVML_GPM_METRIC_SM_UTIL,
        "hw.gpu.sm.occupancy": p.NVML_GPM_METRIC_SM_OCCUPANCY,
        "hw.gpu.tensor.active": p.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
        "hw.gpu.memory.bandwidth.utilization": p.NVML_GPM_METRIC_DRAM_BW_UTIL,
        "hw.gpu.pcie.throughput|transmit": p.NVML_GPM_METRIC_PCIE_TX_PER_SEC,
        "hw.gpu.pcie.throughput|receive": p.NVML_GPM_METRIC_PCIE_RX_PER_SEC,
        "hw.gpu.nvlink.throughput|transmit": p.NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC,
        "hw.gpu.nvlink.throughput|receive": p.NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC,
    }
    links = (p.NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY, p.NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY, p.NVML_FI_DEV_NVLINK_ERROR_DL_CRC)  # fmt: skip
    assert (p.NVML_FI_DEV_NVLINK_GET_STATE, links) == (readings.Links._STATE, readings.Links._ERRORS)
