"""`python -m ssl_bench` is `ssl-bench`."""

from ssl_bench.cli import main

main()
