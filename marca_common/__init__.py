"""Plumbing that every package shares and that knows no science: configs, tables, seeds, checkpoints, runs."""

from marca_common.startup import keep_compiled_code_somewhere, leave_quietly_on_interrupt

leave_quietly_on_interrupt()
keep_compiled_code_somewhere()
