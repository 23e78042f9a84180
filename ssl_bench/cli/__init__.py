"""What a user types and reads: one file per command, and the options they share.

    main        the group of commands, and how errors end it
    group       commands are imported only when they run; the nearest name for a wrong one
    options     options that several commands share
    quickstart, pretrain, eval, compare, report, data, speed, list, show, runs (and prune), export, doctor, validate,
    claims: the commands of those names

Uses every wing below and `results`. Nobody imports it but `__main__`, and `slurm/`, whose `jobs` is a command too.
"""
