"""`python -m ssl_bench` is `ssl-bench`."""

from ssl_bench.cli.main import main

main()
