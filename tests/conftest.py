"""Makes `fork_server` importable from every folder of tests."""
