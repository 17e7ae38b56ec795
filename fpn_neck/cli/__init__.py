"""What a user runs: one verb, one file or folder, each with a ``main()``."""
