"""One pretraining run: method interface, loop, optimizer, monitor, checkpoints, run folder, cost.

    method       what a self-supervised method is: views, a loss, what happens after the step
    two_views    the base of the methods that compare two crops
    world_model  the base of the methods that learn what actions do
    train        the trainer: one step, its state, its restart
    pretrain     from a config to a finished run folder: lock, restart, loop, what is left
    optimizer    AdamW, schedules, clipping
    monitor      collapse and quality signals while training; neighbours: the nearest images and their votes
    journal      what a run writes about itself; trackers: TensorBoard and Weights & Biases
    checkpoint   whole or not there, verified
    run_folder   config, status, lock, names and identity of a run; provenance: commit, versions, machine
    seal         digests of what a finished run's numbers rest on
    code         a content hash of every module that can change a number: provenance, and a warning
    cost         FLOPs, seconds, memory; rate: how fast a device trains, hours as steps
    speed        where the time of a step goes; measure: timing on a shared machine
    stop         a signal ends the loop with a checkpoint

Uses views and below.
"""
