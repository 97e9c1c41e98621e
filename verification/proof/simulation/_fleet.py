"""The processes of a world. They stall, stop and crash, and others replace them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from verification.proof.simulation._books import Save
    from verification.proof.simulation._environment import Environment
    from verification.proof.simulation._kernel import Process


class Service(Protocol):
    """A process that saves."""

    process: Process

    def save(self, save: Save) -> None: ...


class Worker(Protocol):
    """A process that follows."""

    process: Process

    def start(self) -> None: ...
    def stop(self) -> None: ...


class Fleet:
    """
    Services and workers.

    Args:
        environment: What the world's parts share.
        settle: The settle window in seconds.
        make_service: Makes a service with this name.
        make_worker: Makes a worker with this name.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        settle: float,
        make_service: Callable[[str], Service],
        make_worker: Callable[[str], Worker],
    ) -> None:
        self._environment = environment
        self._settle = settle
        self._make_service = make_service
        self._make_worker = make_worker
        self._services: list[Service] = []
        self._workers: list[Worker] = []
        self._born = 0
        self._under_way: dict[Process, dict[Save, None]] = {}

    def start(self, *, services: int, workers: int) -> None:
        """Start so many of each."""
        self._services += [self._new_service() for _ in range(services)]
        self._workers += [self._new_worker() for _ in range(workers)]

    def any_service(self) -> Service:
        """Draw one of the services."""
        return self._services[int(self._environment.random() * len(self._services))]

    def save(self, service: Service, save: Save) -> None:
        """Let a service save. It may crash or stall soon."""
        environment = self._environment
        self._under_way[service.process][save] = None
        environment.ghost.begin(save)
        environment.kernel.spawn(service.process, partial(service.save, save))
        if environment.random() < environment.faults.service_crashes:
            self._soon(partial(self._crash_service, service))
        if environment.random() < environment.faults.stalls:
            self._soon(partial(self._stall, service.process))

    def over(self, save: Save, how: str) -> None:
        """A save has returned, raised, or died with its process."""
        for saves in self._under_way.values():
            if saves.pop(save, save) is None:
                break
        self._environment.ghost.end(save, how)

    def delivered(self, process: Process, messages: int) -> None:
        """A process has received messages. For each, it may crash, stop or stall soon."""
        faults = self._environment.faults
        for _ in range(messages):
            chance = self._environment.random()
            if chance < faults.worker_crashes:
                self._soon(partial(self._crash_worker, process))
            elif chance < faults.worker_crashes + faults.worker_stops:
                self._soon(partial(self._stop_worker, process))
            elif chance < faults.worker_crashes + faults.worker_stops + faults.stalls:
                self._soon(partial(self._stall, process))

    def restart_workers(self, number: int | None = None) -> None:
        """Ask workers to stop, or so many of them: others replace them."""
        for worker in self._workers[:number]:
            self._stop_worker(worker.process)

    def ended(self, worker: Worker) -> None:
        """A worker has stopped in good order."""
        worker.process.alive = False
        self._replace(worker)

    def _soon(self, call: Callable[[], None]) -> None:
        self._environment.kernel.at(self._environment.soon(), call)

    def _stall(self, process: Process) -> None:
        environment = self._environment
        environment.ghost.counts["stalls"] += 1
        now, until = environment.kernel.now, process.stalled_until
        process.stalled_until = max(until, now + 0.1 * 1e3 ** environment.random())
        if environment.ghost.counts["stalls"] % 2:
            process.suspended += process.stalled_until - max(until, now)

    def _crash_service(self, service: Service) -> None:
        """
        Kill a service, unless that would be a double fault, which the promise excludes.

        It would be one if a commit relies on a broadcast that is still to come: the last broadcast
        of a save that outlasted its window, because no renewal could be sent.
        """
        if not service.process.alive:
            return
        environment = self._environment
        for save in self._under_way[service.process]:
            if save.unannounced(self._settle):
                environment.ghost.counts["double faults left out"] += 1
                return
        environment.ghost.counts["service crashes"] += 1
        environment.kernel.kill(service.process)
        for save in self._under_way.pop(service.process):  # saves that had not begun
            environment.ghost.end(save, "crashed")
        self._services[self._services.index(service)] = self._new_service()

    def _crash_worker(self, process: Process) -> None:
        worker = self._worker_of(process)
        if worker is not None:
            self._environment.ghost.counts["worker crashes"] += 1
            self._environment.kernel.kill(process)
            self._replace(worker)

    def _stop_worker(self, process: Process) -> None:
        worker = self._worker_of(process)
        if worker is not None:
            self._environment.ghost.counts["worker stops"] += 1
            worker.stop()

    def _worker_of(self, process: Process) -> Worker | None:
        return next((worker for worker in self._workers if worker.process is process), None)

    def _replace(self, worker: Worker) -> None:
        self._workers.remove(worker)
        kernel = self._environment.kernel
        kernel.at(
            kernel.now + 30 * self._environment.random(),
            lambda: self._workers.append(self._new_worker()),
        )

    def _new_service(self) -> Service:
        self._born += 1
        service = self._make_service(f"service-{self._born}")
        self._under_way[service.process] = {}
        return service

    def _new_worker(self) -> Worker:
        self._born += 1
        worker = self._make_worker(f"worker-{self._born}")
        worker.start()
        return worker
