"""The subcommands of `psa`, one module each: `add_arguments(parser)` and `run(args) -> exit code`."""
