"""The verbs of the command line, one file each; `switchq.cli` imports a verb when it runs."""
