"""Runs on a SLURM cluster: launcher, cluster profiles, requeue, a one-machine test cluster."""
