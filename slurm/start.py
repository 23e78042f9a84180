"""`python -m slurm.start FOLDER`, the process of a job: signals wait until the task is ready to answer them.

Until then USR2 and TERM would end a job that nobody queues again: Python takes seconds to import on a busy file system.
"""

from __future__ import annotations

import signal

HELD = (signal.SIGUSR2, signal.SIGTERM)

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)

    from submitit.core.submission import submitit_main

    submitit_main()
