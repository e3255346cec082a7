"""The verbs of `hf-vpdd`: one module each, with `SUMMARY`, `add_arguments(parser)` and `run(args)`."""
