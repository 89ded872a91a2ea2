"""Threads of a fit: how many, the pool that runs them, and BLAS, which keeps to the calling one."""

import os
import threading
from queue import SimpleQueue

import joblib
from threadpoolctl import ThreadpoolController


def resolve_threads(n_jobs):
    """Threads for one fit: ``None`` means the processors this process may use, capped by what it was granted.

    Within a joblib worker the grant is what joblib put into the environment (processes) or one (threads).
    """
    if n_jobs is not None and n_jobs > 0:
        return n_jobs
    granted = [
        int(v) for v in map(os.environ.get, ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")) if v and v.isdigit()
    ]
    backend, _ = joblib.parallel.get_active_backend()
    if (backend.nesting_level or 0) > 0 and backend.uses_threads:
        granted.append(1)
    available = max(1, min([joblib.cpu_count(), *granted]))
    return available if n_jobs is None else max(1, available + 1 + n_jobs)


class _Pool:
    """Worker threads kept for the process; a forked child, where they do not live on, gets its own.

    A thread takes what is to be called from a queue. Futures of the standard library take longer: 30 to 80
    microseconds per call of ``run_tasks``, of which a network makes one per step.
    """

    def __init__(self):
        self._lock, self._size, self._queue = threading.Lock(), 0, SimpleQueue()

    def submit(self, work, n_threads):
        """Have ``work`` called so many times, by threads that have nothing else to do."""
        with self._lock:
            while self._size < n_threads:
                name = f"skbigmodel-{self._size}"
                threading.Thread(target=_serve, args=(self._queue,), name=name, daemon=True).start()
                self._size += 1
        for _ in range(n_threads):
            self._queue.put(work)


def _serve(queue):
    while True:
        queue.get()()  # no name for it, which would keep its arrays until the next


_POOL = _Pool()
os.register_at_fork(after_in_child=_POOL.__init__) if hasattr(os, "register_at_fork") else None


def run_tasks(function, n_tasks, n_threads):
    """function(0) … function(n_tasks - 1), on at most that many threads, of which the caller's is one."""
    n_threads = min(n_threads, n_tasks)
    if n_threads <= 1:
        for k in range(n_tasks):
            function(k)
        return
    todo, tickets, ends = iter(range(n_tasks)), iter(range(n_threads - 1)), SimpleQueue()

    def work():
        for k in todo:  # handing out the next number is atomic
            function(k)

    def work_apart():
        if next(tickets, None) is None:  # the caller has done without
            return
        try:
            work()
        except BaseException as error:  # whatever it is, the caller raises it
            ends.put(error)
        else:
            ends.put(None)

    _POOL.submit(work_apart, n_threads - 1)
    try:
        work()
    finally:
        for _ in todo:  # after an error or Ctrl-C nothing more is handed out
            pass
        # threads that have not begun may be at work for others, or for a task of which this call is a part
        n_begun = n_threads - 1 - sum(1 for _ in tickets)
        for error in [ends.get() for _ in range(n_begun)]:
            if error is not None:
                raise error


class _SingleThreadedBLAS:
    """Context in which BLAS keeps to the calling thread: ours are the threads, whose number changes nothing.

    The setting is one for the process, so fits that overlap in time share it: the first in sets it, the last
    out restores it.
    """

    def __init__(self):
        self._lock, self._depth, self._libraries, self._before = threading.Lock(), 0, None, ()

    def __enter__(self):
        with self._lock:
            self._depth += 1
            if self._depth > 1:
                return
            # their setters are called directly: a fit may take no longer than a search
            if self._libraries is None:
                found = ThreadpoolController().lib_controllers
                self._libraries = [library for library in found if library.user_api == "blas"]
            self._before = [library.num_threads for library in self._libraries]
            for library in self._libraries:
                library.set_num_threads(1)

    def __exit__(self, *error):
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                for library, n_threads in zip(self._libraries, self._before, strict=True):
                    library.set_num_threads(n_threads)


single_threaded_blas = _SingleThreadedBLAS()
os.register_at_fork(after_in_child=single_threaded_blas.__init__) if hasattr(os, "register_at_fork") else None
