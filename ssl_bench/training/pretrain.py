"""One pretraining from its config to the encoder in its run folder: processes, lock, restart, loop, what is left."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ssl_bench.config.schema import Config, to_dict
from ssl_bench.data.dataset import Dataset, open_data
from ssl_bench.errors import NonFinite, UserError
from ssl_bench.files import sweep, write_atomic
from ssl_bench.parallel import collectives, devices, processes, sharding
from ssl_bench.training import checkpoint, cost, provenance, rate, run_folder
from ssl_bench.training.journal import Journal, Observer
from ssl_bench.training.method import as_now
from ssl_bench.training.monitor import Monitor, collapse, unjudged
from ssl_bench.training.seal import seal
from ssl_bench.training.stop import Stop
from ssl_bench.training.train import Trainer, refuse_labels, rehearse
from ssl_bench.views.crops import enlarged


def ignore(state: dict[str, Any]) -> None:
    """The observer where nobody watches."""


def pretrain(config: Config, root: Path, observe: Observer = ignore) -> run_folder.Run:
    """Train one run to its end, or go on where it stopped; the same command again does nothing more.

    With run.devices, torchrun or srun, several processes are in here together; process 0 alone writes and observes.
    """
    config = as_now(config.check())
    rehearse(config)
    with processes.group(config.run.devices, config.run.device, pretrain, config, root):
        processes.use_threads(config.run.threads)
        return _pretrain(config, root, ignore if collectives.rank() else observe)


def _pretrain(config: Config, root: Path, observe: Observer) -> run_folder.Run:
    held: list[Any] = []
    sharding.share(config.budget.batch_size, config.budget.accumulate)  # refuses what these processes cannot share
    data: Dataset | None = None
    if run_folder.Run(root / run_folder.run_name(config)).status().get("state") != "finished":
        data = open_data(config.data, config.run)  # images that cannot be read leave no run folder either
        refuse_labels(config, data)

    def begin() -> tuple[run_folder.Run, bool]:
        run = run_folder.start(root, config)
        if run_folder.trained_on(run):  # the config names the set as it was typed: it may mean another one now
            now = data or open_data(config.data, config.run)
            run_folder.same_images(run, config.data.name, now.fingerprint)
        if told := run_folder.same_code(run, config.run.keep_old):
            observe({"remarks": [told]})
        if run.status().get("state") == "finished":
            return run, True
        held.append(run_folder.lock(run))
        sweep(run.folder, but="config.json")  # which a process that is refused by the lock may be writing
        return run, False

    run, finished = collectives.first(begin)
    if finished:
        return run
    assert data is not None
    stop = Stop()
    try:
        _train(config, run, data, stop, observe)
    except BaseException as error:
        state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(UserError):  # a full disk takes no status either, and what went wrong is said by `error`
            if held:
                run_folder.set_status(run, state=state, reason=str(error), **getattr(error, "facts", {}))
        raise
    finally:
        stop.restore()
        for lock in held:
            lock.close()
    return run


def _train(config: Config, run: run_folder.Run, data: Dataset, stop: Stop, observe: Observer) -> None:
    device = devices.pick_device(config.run.device)
    if config.budget.hours:
        config = rate.in_steps(config, data, device, run.folder / "steps.json")
    trainer = Trainer(config, data, device)
    monitor = Monitor(trainer) if config.monitor_points else None
    state, remarks = collectives.first(lambda: checkpoint.resume(run.folder))
    remarks += devices.crowded(device) + devices.without_bf16(config, device) + unjudged(trainer)
    remarks += enlarged(config, data.item.name)
    if state is not None:
        trainer.restore(state)
    before = run.read_json("provenance.json") if state is not None else {}
    seen = {"name": data.name, "fingerprint": data.fingerprint, "labels_seen": trainer.uses_labels}
    facts: dict[str, Any] = {"data": seen, "remarks": remarks}
    facts |= {"device": devices.device_label(device), "processes": collectives.world_size(), "resumed_at": trainer.step}
    facts |= provenance.of_training(config.method, before)
    collectives.first(lambda: run_folder.write_json(run.folder / "provenance.json", provenance.provenance(facts)))
    collectives.first(lambda: run_folder.set_status(run, state="running", reason="", non_finite=None))
    begin = {"step": trainer.step, "steps": trainer.steps, "resumed": trainer.step > 0}
    observe({"run": run.name, "remarks": remarks, **begin})
    journal = Journal(trainer, run, observe, monitor)
    stopping = False
    with closing(journal), checkpoint.Writer(run.folder, trainer.step if state else None) as writer:
        while trainer.step < trainer.steps and not stopping:
            try:
                journal.record(trainer.train_step())
            except FloatingPointError as error:
                if len(trainer.skipped) >= config.run.nan_skips:
                    raise _non_finite(trainer, writer, str(error)) from error
                trainer.skip()
                journal.record({}, skipped=str(error))
            stopping, due = collectives.any_of(stop.asked, writer.ready(journal.checkpoint_due()))
            if due:
                _keep(trainer, writer)
        collectives.first(writer.wait)
        if collectives.first(lambda: trainer.step != writer.last):
            _keep(trainer, writer)
            collectives.first(writer.wait)  # a launcher may end all processes when one of them has ended
    if stopping:
        raise KeyboardInterrupt("stopped by a signal; the checkpoint is written")
    if len(trainer.skipped) >= trainer.steps:
        raise UserError(f"None of the {trainer.steps:,} steps made an update: every loss or gradient was not finite.")
    _finish(trainer, run)


def _keep(trainer: Trainer, writer: checkpoint.Writer) -> None:
    """Write the state, if it is worth keeping: all processes gather it, process 0 writes."""
    if not trainer.finite():
        trainer.step -= 1  # the step that made them
        raise _non_finite(trainer, writer, "weights")
    state = trainer.state()
    collectives.first(lambda: writer.save(state))


def _non_finite(trainer: Trainer, writer: checkpoint.Writer, what: str) -> NonFinite:
    """What to say of a step that cannot be used."""
    writer.wait()
    batch, step = trainer.order(trainer.step).tolist(), trainer.step + 1
    shown = ", ".join(map(str, batch[:8])) + (f", ... (all {len(batch)} in status.json)" if len(batch) > 8 else "")
    last = f"the last good checkpoint is of step {writer.last}, in" if writer.last else "there is no checkpoint yet in"
    advice = "a lower optim.lr, or optim.clip=1" + ("" if what == "weights" else ", or --on-nan skip=N")
    return NonFinite(
        f"Non-finite {what} at step {step}; batch {shown}; {last} {writer.folder}. Try {advice}.",
        non_finite={"step": step, "what": what, "batch": batch, "last_good_checkpoint": writer.last},
    )


def _finish(trainer: Trainer, run: run_folder.Run) -> None:
    weights = sharding.whole(trainer.method.encoder.state_dict())
    kept = trainer.method.kept()
    beside = sharding.whole(kept.state_dict()) if kept is not None else {}
    spent = cost.report(trainer.config, trainer.steps, trainer.legs(), trainer.flops_per_image)
    collectives.first(lambda: _leave(trainer, run, weights, beside, spent))


def _leave(
    trainer: Trainer, run: run_folder.Run, weights: dict[str, Tensor], beside: dict[str, Tensor], spent: dict[str, Any]
) -> None:
    """What a finished run leaves in its folder."""
    method, info = trainer.method, trainer.method.info
    payload = save({k: v.detach().cpu().contiguous() for k, v in weights.items()})
    write_atomic(run.folder / "encoder.safetensors", payload)
    if (kept := method.kept()) is not None:
        also = save({k: v.detach().cpu().contiguous() for k, v in beside.items()})
        write_atomic(run.folder / f"{kept.file}.safetensors", also)
        told = {**kept.facts, "weights_sha256": checkpoint.sha256(also)}
        run_folder.write_json(run.folder / f"{kept.file}.json", told)
    meta = {"backbone": to_dict(method.encoder.config), **info.item.facts}
    meta |= {"pooling": method.pooling, "mean": info.mean, "std": info.std, "evaluated": method.evaluated}
    meta |= {} if kept is None else {"kept": kept.file}
    meta |= {"weights_sha256": checkpoint.sha256(payload), "collapse": (reason := collapse(run))}
    run_folder.write_json(run.folder / "compute.json", {**spent, "skipped_steps": trainer.skipped})
    run_folder.write_json(run.folder / "encoder.json", {**meta, "seal": seal(run, meta)})
    (run.folder / checkpoint.PREVIOUS).unlink(missing_ok=True)  # of no use beside a finished run's last
    run_folder.set_status(
        run, state="finished", step=trainer.step, steps=trainer.steps, collapsed=bool(reason), collapse_reason=reason
    )
