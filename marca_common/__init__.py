"""Plumbing that every package shares and that knows no science: configs, tables, seeds, checkpoints, runs."""

from marca_common.startup import keep_compiled_code_somewhere, leave_errors_of_groups_to_us, leave_quietly_on_interrupt

leave_quietly_on_interrupt()
keep_compiled_code_somewhere()
leave_errors_of_groups_to_us()
