"""Processes that train together, for the tests of data-parallel growth; started once for many scenarios."""

import json
import os
import select
import subprocess
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).parent


class Processes:
    """Processes that run functions of `scenarios`; those a scenario does not need stand by."""

    def __init__(self):
        self.started = []

    def _start(self):
        code = f"import sys; sys.path[:0] = [{str(HERE.parent)!r}, {str(HERE)!r}]; from processes import serve; serve()"
        command = [sys.executable, "-W", "error", "-c", code]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env))

    def run(self, call, place, size=2, within=60.0):
        """Run a function on several processes, each in a new group, and return what each of them returned."""
        import torch

        while len(self.started) < size:
            self._start()
        for rank in range(size):
            job = {"call": call, "rank": rank, "size": size, "place": str(place)}
            self.started[rank].stdin.write(json.dumps(job).encode() + b"\n")
            self.started[rank].stdin.flush()
        ends = time.monotonic() + within
        said = [self._answer(rank, ends) for rank in range(size)]
        assert said == [""] * size, "\n".join(said)
        return [torch.load(place / f"rank{r}.pt", weights_only=True) for r in range(size)]

    def _answer(self, rank, ends):
        ready, _, _ = select.select([self.started[rank].stdout], [], [], max(ends - time.monotonic(), 0.1))
        line = self.started[rank].stdout.readline() if ready else b""
        return json.loads(line) if line else f"process {rank} hangs or has died"

    def stop(self):
        for process in self.started:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def serve():
    """Run the functions that are asked for, until nobody asks any more."""
    import scenarios
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        rank, size, place = job["rank"], job["size"], Path(job["place"])
        said = ""
        try:
            dist.init_process_group("gloo", init_method=f"file://{place / 'meet'}", rank=rank, world_size=size)
            torch.save(getattr(scenarios, job["call"])(rank, size, place), place / f"rank{rank}.pt")
            dist.destroy_process_group()
        except BaseException:
            said = traceback.format_exc() or "failed"
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        if said:
            return
