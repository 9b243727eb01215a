"""The command `speechllm`: one module per subcommand, listed in `main.COMMANDS`."""
