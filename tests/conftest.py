"""Makes `fork_server` and `tiny_run` importable from every folder of tests."""
