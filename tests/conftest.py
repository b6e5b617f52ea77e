"""Makes the helper modules that lie here importable from every folder of tests."""
