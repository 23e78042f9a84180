"""What a job does: one command of ssl-bench, stopped in time, queued again, gone on with from the last checkpoint.

SLURM sends USR2 `signal_seconds` before the time limit (and at preemption, where the site has asked for it): the
training loop ends its step, writes a checkpoint, and the job is queued again. TERM alone says that something has
happened to the job (a cancellation, `scontrol requeue`, preemption, a shutdown) and that KILL follows: the checkpoint
is written and the job waits for its end; where no end comes it goes on. A node that dies says nothing: the next
life begins at the last checkpoint on disk.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from slurm.start import HELD
from ssl_bench.errors import UserError

WAIT = 60.0  # seconds that a job stopped by TERM waits for its end before it goes on
LOCK_WAIT = 150.0  # seconds for the life before to let go of the run: network file systems keep a dead node's locks
REQUEUE_WAIT = 900.0  # seconds of asking a controller that does not answer; the time limit usually ends it first


@dataclass(frozen=True)
class Task:
    """One job of an array. Plain values only: it is pickled now and read by the copy of the code."""

    stage: str  # pretrain, evaluate or report
    label: str  # for people
    root: str  # absolute
    arguments: tuple[str, ...] = ()  # of ssl-bench; evaluation adds the protocols that have no record yet
    run: str = ""  # name of the run that is pretrained or evaluated, "" for references
    protocols: tuple[str, ...] = ()  # of an evaluation
    encoder: tuple[Any, ...] = ("", 0, "")  # what its records are known by: the fields of recorded.Cell
    max_requeues: int = 0

    def __call__(self) -> None:
        """Run to the end of the command, or to the end of this life."""
        import submitit

        here = submitit.JobEnvironment()
        here.paths.result_pickle.with_suffix(".pkl.save_tmp").unlink(missing_ok=True)  # of a life killed while saving
        lives = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        if lives > self.max_requeues and here.cluster == "slurm":
            _fail(f"the job was queued again {lives} times; its profile allows max_requeues = {self.max_requeues}.")
        if here.num_tasks > 1:
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        signals = Signals()
        while True:
            try:
                with signals:
                    self._work()
                return
            except KeyboardInterrupt:
                signals.settle(here, self.max_requeues - lives)
                print("no end came after the signal: going on", flush=True)

    def _work(self) -> None:
        """The command, in this process. Every failure is one line or a traceback in the log, and a non-zero exit."""
        import click

        try:
            if self.stage == "report":
                _report(Path(self.root))
            elif self.stage == "evaluate":
                self._evaluate()
            else:
                if int(os.environ.get("RANK") or 0) == 0:  # it holds the run for all
                    _free(Path(self.root) / self.run)
                _command(self.arguments)
        except click.Abort:
            raise KeyboardInterrupt from None
        except (UserError, click.ClickException) as error:
            _fail(error.format_message() if isinstance(error, click.ClickException) else str(error))
        except Exception:
            traceback.print_exc()
            sys.exit(1)

    def _evaluate(self) -> None:
        """What has no record yet: a second life repeats nothing."""
        from ssl_bench.experiments import recorded

        left = recorded.Numbers(Path(self.root)).missing(self.protocols, recorded.Cell(*self.encoder))
        if left:
            _command([*self.arguments, *(word for name in left for word in ("--protocol", name))])
        else:
            print("every record is there already")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Task:
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return Task(**plain)


class Signals:
    """Turns USR2 into an orderly stop. Inside `with`, code without a handler of its own is interrupted at once."""

    def __init__(self) -> None:
        self.again, self.working = False, False
        signal.signal(signal.SIGTERM, self.terminate)
        signal.signal(signal.SIGUSR2, self.interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)  # what came since the start of the process comes now

    def __enter__(self) -> None:
        self.working = True
        if self.again:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        self.working = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """USR2. The training loop has replaced our handler of TERM by its own, which asks for the end of the step."""
        self.again = True
        loop = signal.getsignal(signal.SIGTERM)
        if callable(loop) and loop != self.terminate:
            loop(signal.SIGTERM, frame)
        elif self.working:
            raise KeyboardInterrupt

    def terminate(self, number: int, frame: FrameType | None) -> None:
        """TERM outside of training: what is running has nothing to save. On this machine it means stop."""
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":
            raise KeyboardInterrupt

    def settle(self, here: Any, left: int) -> None:
        """After a stop: end this life, or return where no end comes."""
        deadline = time.monotonic() + WAIT
        if here.cluster == "local" and not self.again:
            print("stopped by a signal; a run keeps its checkpoint", flush=True)
            sys.exit(130)
        while not self.again and time.monotonic() < deadline:
            time.sleep(0.2)
        if self.again and here.global_rank == 0:
            requeue(here, left)
        elif self.again:  # leaving now would take rank 0 down before it has queued the job again
            time.sleep(REQUEUE_WAIT)
            sys.exit(1)


def requeue(here: Any, left: int) -> NoReturn:
    """Queue this job again, and end. Asks for as long as the controller is away and this job is alive."""
    if here.cluster == "local":
        here._requeue(0)  # ends the process with the code on which submitit's local controller starts it again
    if left <= 0:
        _fail("stopped by its time limit or by preemption, and max_requeues of its profile is used up; the checkpoint "
              "is written, and `ssl-bench jobs retry` goes on from it.")  # fmt: skip
    # A requeue makes SLURM send TERM to everything in this job, to the asking process too.
    command = ["sh", "-c", "trap '' TERM; exec scontrol requeue \"$0\"", here.job_id]
    deadline, why = time.monotonic() + REQUEUE_WAIT, ""
    while time.monotonic() < deadline:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            why = "no answer within 120 s"
            continue
        if done.returncode == 0:
            print(f"queued again, {left - 1} times left", flush=True)
            sys.exit(1)
        why = done.stderr.strip()
        print(f"scontrol requeue {here.job_id}: {why}", file=sys.stderr, flush=True)
        time.sleep(3)
    _fail(f"the job could not be queued again ({why}); the checkpoint is written, `ssl-bench jobs retry` goes on.")


def _free(folder: Path) -> None:
    """Wait while the life before still holds the run; then the loop takes the lock or says who has it."""
    from ssl_bench.training import run_folder

    deadline = time.monotonic() + LOCK_WAIT
    while (folder / "lock").exists() and time.monotonic() < deadline:
        try:
            run_folder.lock(run_folder.Run(folder)).close()
            return
        except UserError:
            time.sleep(2)


def _command(arguments: tuple[str, ...] | list[str]) -> None:
    from ssl_bench.cli import main

    sys.argv = ["ssl-bench", *arguments]  # what the run's provenance quotes
    code = main.cli.main(args=list(arguments), prog_name="ssl-bench", standalone_mode=False)
    if isinstance(code, int) and code:
        sys.exit(code)


def _report(root: Path) -> None:
    """report.md and report.html beside the records."""
    from ssl_bench.experiments import report
    from ssl_bench.files import write_atomic

    records = report.load(root)
    write_atomic(root / "report.md", report.report(records, "markdown") + "\n")
    report.html(records, root / "report.html", root)
    print(f"wrote {root / 'report.md'} and {root / 'report.html'}: {len(records)} records")


def _fail(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(2)
