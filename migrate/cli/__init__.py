"""The command line: one thin module a command, one error boundary. Only this package prints or exits."""
