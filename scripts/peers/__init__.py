"""What scripts/bench_peers is made of. Each file's first lines say where it runs: main's Python, or an environment."""
