"""What a user runs: one verb, one file, each with a ``main()``."""
