"""Start machines from a template: a saved machine that waits for a command."""
