"""NVIDIA's management library, in our words: what it reports of GPUs, and what is wrong with one when it is asked.

The only place that knows `pynvml`. Every call may take seconds while a GPU is failing: not for an event loop. Devices
are in the order of their PCI addresses, which is what our indices mean.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

LOG: Final = logging.getLogger("headrace.runner")

DOUBLE_BIT_ECC: Final = "double-bit ECC error"
ACTIONS: Final = {
    1: ("it must be reset", True),
    2: ("its machine must be restarted", True),
    3: ("it should be reset when nothing runs there: its links to other GPUs are down", False),
    4: ("it should be reset when nothing runs there", False),
    6: ("its bus must be reset", True),
    7: ("its machine must be switched off and on", True),
}
"""What the driver says is to be done (`NVML_GPU_RECOVERY_ACTION_…`), and whether nothing can run until then."""


class Event(NamedTuple):
    """Something happened to a GPU. `xid` 0: a double-bit ECC error."""

    gpu: int
    xid: int


class Condition(NamedTuple):
    """Something is wrong with a GPU, for as long as a look shows it. `ends`: nothing can run on it."""

    gpu: int
    sign: str
    why: str
    ends: bool


class Nvml:
    """The first GPUs of this machine. Belongs to one thread."""

    def __init__(self, library: Any, gpus: int) -> None:
        self._nvml = library
        self._handles: dict[int, Any] = {}
        self._lost: list[int] = []
        self._events = library.nvmlEventSetCreate()
        for gpu in range(gpus):
            try:
                self._handles[gpu] = library.nvmlDeviceGetHandleByIndex(gpu)
                self._register(gpu)
            except library.NVMLError as error:
                LOG.warning("GPU %d cannot be had: %s", gpu, error)
                self._lost.append(gpu)
        self._gpus = {_address(handle): gpu for gpu, handle in self._handles.items()}

    @classmethod
    def open(cls, gpus: int) -> Nvml | None:
        """None: there is no such library here, no driver, or it knows fewer GPUs than the node has."""
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            LOG.info("GPUs are not watched: %s", error)
            return None
        try:
            known = pynvml.nvmlDeviceGetCount()
            if known >= gpus:
                return cls(pynvml, gpus)
            LOG.warning("GPUs are not watched: the driver knows %d, and this node has %d", known, gpus)
        except pynvml.NVMLError as error:
            LOG.warning("GPUs are not watched: %s", error)
        pynvml.nvmlShutdown()
        return None

    def close(self) -> None:
        for call in (lambda: self._nvml.nvmlEventSetFree(self._events), self._nvml.nvmlShutdown):
            try:
                call()
            except self._nvml.NVMLError as error:
                LOG.info("NVML did not close: %s", error)

    def wait(self, seconds: float) -> Event | None:
        """The next event; None: there was none in this time, or none that counts here."""
        nvml = self._nvml
        try:
            data = nvml.nvmlEventSetWait_v2(self._events, round(seconds * 1000))
        except nvml.NVMLError as error:
            if error.value != nvml.NVML_ERROR_TIMEOUT:
                LOG.info("no event of a GPU can be had: %s", error)
                time.sleep(seconds)
            return None
        gpu = self._gpus.get(_address(data.device))
        if gpu is None:
            LOG.warning("event %x (%d) of a GPU that is not known", data.eventType, data.eventData)
            return None
        if data.eventType == nvml.nvmlEventTypeXidCriticalError:
            return Event(gpu, int(data.eventData))
        return Event(gpu, 0) if data.eventType == nvml.nvmlEventTypeDoubleBitEccError else None

    def look(self) -> tuple[Condition, ...]:
        """Everything that is wrong now, of all of them."""
        lost = (Condition(gpu, "lost", "the driver does not find it any more", True) for gpu in self._lost)
        return (*lost, *(each for gpu, handle in self._handles.items() for each in self._look_at(gpu, handle)))

    def _look_at(self, gpu: int, handle: Any) -> Iterator[Condition]:
        nvml = self._nvml
        try:
            self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)  # any question shows a loss
            _, _, is_pending, has_failed = self._ask(nvml.nvmlDeviceGetRemappedRows, handle) or (0, 0, 0, 0)
            retires = self._ask(nvml.nvmlDeviceGetRetiredPagesPendingStatus, handle)
            action = self._recovery(handle)
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
                yield Condition(gpu, "lost", "the driver has lost it", True)
            else:
                yield Condition(gpu, "reset", "it must be reset", True)
            return
        if has_failed:
            yield Condition(gpu, "rows failed", "memory rows could not be remapped", True)
        if is_pending:
            yield Condition(gpu, "rows pending", "memory rows are remapped when it is reset", False)
        if retires:
            yield Condition(gpu, "pages pending", "memory pages are retired when it is reset", False)
        if action in ACTIONS:
            why, ends = ACTIONS[action]
            yield Condition(gpu, f"action {action}", why, ends)

    def _ask(self, question: Callable[..., Any], *about: Any) -> Any:
        """None: this GPU or this driver does not know. Raises NVMLError if it is lost, or must be reset."""
        try:
            return question(*about)
        except self._nvml.NVMLError as error:
            if error.value in (self._nvml.NVML_ERROR_GPU_IS_LOST, self._nvml.NVML_ERROR_RESET_REQUIRED):
                raise
            return None

    def _recovery(self, handle: Any) -> int:
        """What is to be done, by the driver's own word; 0: nothing."""
        found = self._ask(self._nvml.nvmlDeviceGetFieldValues, handle, [self._nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
        return int(found[0].value.uiVal) if found is not None and found[0].nvmlReturn == self._nvml.NVML_SUCCESS else 0

    def _register(self, gpu: int) -> None:
        nvml = self._nvml
        wanted = nvml.nvmlEventTypeXidCriticalError | nvml.nvmlEventTypeDoubleBitEccError
        kinds = self._ask(nvml.nvmlDeviceGetSupportedEventTypes, self._handles[gpu]) or 0
        if kinds & wanted:
            nvml.nvmlDeviceRegisterEvents(self._handles[gpu], kinds & wanted, self._events)
        else:
            LOG.warning("GPU %d reports no events: it is only looked at", gpu)


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
