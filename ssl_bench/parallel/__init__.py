"""Devices, processes, collectives, sharding.

    devices       the device, its precision, its memory
    processes     several processes: started here, or by torchrun or SLURM
    collectives   what a loss and the loop need from other processes
    sharding      DDP or FSDP2 around a method, and whole states
    traffic       bytes that a step sends

Uses config.
"""
